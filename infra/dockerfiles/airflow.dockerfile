# Airflow with the learning loop; one image for its api server, scheduler and DAG processor.
FROM python:3.11-slim

# LightGBM links against OpenMP, which no Python package brings. Debian keeps one version per release: a pinned one
# would stop building with the next fix.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

COPY infra/requirements/airflow.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r /tmp/requirements.txt

# The folders exist with their owner, so that new volumes mounted there belong to the user. The uid is the router's:
# both read the volume of the request log.
RUN useradd --uid 10001 --no-create-home crossfade \
    && install -d -o crossfade -g crossfade /opt/airflow /opt/airflow/logs /usr/src/app/logs
WORKDIR /usr/src/app
COPY dags dags
COPY src src

ENV AIRFLOW_HOME=/opt/airflow PYTHONPATH=/usr/src/app/src PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001
CMD ["airflow", "version"]
