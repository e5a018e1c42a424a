#!/bin/bash
# Runs once, on an empty data folder: a database and an owner each for MLflow, Airflow and Crossfade's ingested rows.
set -euo pipefail
for name in mlflow airflow crossfade; do
    psql --username "$POSTGRES_USER" --set name="$name" --set password="$POSTGRES_PASSWORD" --set ON_ERROR_STOP=1 <<'SQL'
CREATE USER :"name" PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
