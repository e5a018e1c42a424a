# The MLflow server: tracking, registry and artifacts. Nothing of Crossfade is in it.
FROM python:3.11-slim

COPY infra/requirements/mlflow.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r /tmp/requirements.txt

RUN useradd --uid 10001 --no-create-home mlflow && install -d -o mlflow -g mlflow /mlflow/artifacts
WORKDIR /mlflow

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "4200", "--workers", "1"]
