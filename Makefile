.DEFAULT_GOAL := help
.PHONY: help sync up down status demo test check run run-drift retrain evaluate serve verify simulate bench lock clean \
	compose-up compose-demo compose-down compose-test compose-backup compose-restore

CROSSFADE := .venv/bin/crossfade
STAMP := .venv/.synced
BENCHMARKS := decision drift engines evaluation false_alarms log_reading postgres_log postgres_reading serving
COMPILE := uv pip compile --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

sync: $(STAMP) ## make .venv with every pinned package (done by all targets that need it)

$(STAMP): requirements.txt pyproject.toml infra/setup.sh
	@sh infra/setup.sh
	@touch $(STAMP)

up: sync ## start MLflow, Airflow, the router and the dashboard, and wait until they are healthy
	@$(CROSSFADE) up

down: sync ## stop them, leaving nothing behind
	@$(CROSSFADE) down

status: sync ## show what runs
	@$(CROSSFADE) status

demo: sync ## play the whole loop: drift, retrain, A/B test, promotion
	@$(CROSSFADE) demo

check: sync ## check style and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

test: check ## run style, types and every test, the real stack included
	.venv/bin/pytest --numprocesses 2 --dist loadfile -m "not e2e and not compose"
	.venv/bin/pytest -m e2e

run: up ## start the stack and trigger the DAG once
	@$(CROSSFADE) run

run-drift: sync ## check live traffic for drift (exit code 2: too little data for a verdict)
	@$(CROSSFADE) drift

retrain: sync ## train a challenger now and register it
	@$(CROSSFADE) retrain

evaluate: sync ## evaluate the running A/B test now
	@$(CROSSFADE) evaluate

serve: sync ## run the router alone, in the foreground
	@$(CROSSFADE) serve

verify: sync ## check every report against the manifest's digests
	@$(CROSSFADE) verify

simulate: sync ## send 1000 labelled requests to the router (ARGS="--drift 0.5 --rows 5000")
	@$(CROSSFADE) simulate $(ARGS)

bench: sync ## measure, each benchmark beside what it is compared with
	@for name in $(BENCHMARKS); do echo "== $$name"; .venv/bin/python benchmarks/$$name.py || exit 1; done

compose-up: ## build and start the stack in containers, and wait until it is healthy
	@cd infra && docker compose up --detach --build --wait

compose-demo: compose-up sync ## play the demo's story against the containers
	@CROSSFADE_HOME=infra $(CROSSFADE) demo --no-start

compose-down: ## stop the containers; models, logs and reports stay in their volumes
	@cd infra && docker compose down

compose-backup: ## save all that the containers keep in FILE=name.tar.gz, while they run
	@sh infra/backup.sh save $(FILE)

compose-restore: ## put FILE=name.tar.gz in place of what the containers keep
	@sh infra/backup.sh restore $(FILE)

compose-test: sync ## try the containers in earnest, under a project of their own: one machine's stack, and the profile scale
	.venv/bin/pytest -m compose tests/compose

lock: ## pin the requirements files anew from pyproject.toml (needs uv)
	$(COMPILE) pyproject.toml --extra loop --extra postgres --extra dask --extra spark --extra otel --extra dev --output-file requirements.txt
	$(COMPILE) pyproject.toml --constraints requirements.txt --extra postgres --extra otel --output-file infra/requirements/router.txt
	$(COMPILE) pyproject.toml --constraints requirements.txt --extra loop --extra postgres --extra celery --extra dask --output-file infra/requirements/airflow.txt
	$(COMPILE) --group mlflow-server --constraints requirements.txt --output-file infra/requirements/mlflow.txt

clean: down ## forget everything: models, logs, reports
	rm -rf var
