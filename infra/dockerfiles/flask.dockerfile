# The router: Flask under gunicorn, without Airflow. Built from the root of the checkout.
FROM python:3.11-slim

# LightGBM links against OpenMP, which no Python package brings. Debian keeps one version per release: a pinned one
# would stop building with the next fix.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

# Packages before code: a change of the code rebuilds the last layer only.
COPY infra/requirements/router.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r /tmp/requirements.txt

# The folder exists with its owner, so that a new volume mounted there belongs to the user.
RUN useradd --uid 10001 --no-create-home crossfade && install -d -o crossfade -g crossfade /usr/src/app/logs
WORKDIR /usr/src/app
COPY src src

ENV PYTHONPATH=/usr/src/app/src PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp LOG_FORMAT=json
USER 10001
CMD ["python", "-m", "crossfade.cli", "serve"]
