"""The learning loop as a DAG: wiring only, every task is one call into `pipeline`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, TriggerRule, dag, task
from airflow.timetables.trigger import CronTriggerTimetable

from crossfade.settings import load_settings

SCHEDULE = load_settings().dag_schedule

DOC = """
### Drift → retrain → A/B → promote

```
check_drift → branch_on_drift ┬ retrain → register_staging ┬ ab_evaluate_and_promote → end
                              └ no_retrain ────────────────┘
```

* **check_drift** compares live traffic with what the model in production learnt, and decides: `retrain`, `monitor`, or
  `block` where the rows are broken and a retraining would learn the bug.
* **retrain** trains with AutoML on what was learnt before plus the labelled rows seen since; the challenger must beat
  the champion on the newest of them.
* **register_staging** registers it in MLflow: as `staging` (arm B of the router), or as `rejected`. The very first
  version becomes `prod` at once.
* **ab_evaluate_and_promote** looks at the running experiment and moves `prod` when the evidence is good.

Every task is safe to run twice. Leave a parameter empty to use the installation's setting.
"""

PARAMS = {
    "force_retrain": Param(False, type="boolean", description="Retrain whatever the drift check finds."),
    "psi_threshold": Param(
        None, type=["null", "number"], minimum=0, description="PSI that counts as a shift. Empty: PSI_THRESHOLD."
    ),
    "ab_alpha": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        exclusiveMaximum=1,
        description="p-value below which B's difference counts. Empty: AB_ALPHA.",
    ),
    "ab_test": Param(
        None,
        type=["null", "string"],
        enum=[None, "chi2", "anytime", "paired"],
        description="Gate that decides; all three are reported. Empty: AB_TEST.",
    ),
    "current_source": Param(
        "requests",
        type="string",
        minLength=1,
        description="`requests` (live traffic), `simulated` (the dataset, drifted), or a CSV or Parquet file.",
    ),
    "drift_strength": Param(
        None,
        type=["null", "number"],
        minimum=-10,
        maximum=10,
        description="Shift of `simulated` rows, in standard deviations. Empty: DRIFT_STRENGTH.",
    ),
}


@dag(
    # A new installation waits for the next time: run_immediately=False would run at once shortly after one.
    schedule=None
    if SCHEDULE == "none"
    else CronTriggerTimetable(SCHEDULE, timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},
    params=PARAMS,
    doc_md=DOC,
    tags=["crossfade"],
)
def drift_retrain_ab_pipeline() -> None:
    """Check drift, retrain when it pays, evaluate the A/B test."""

    @task
    def check_drift(params: dict[str, Any], dag_run: Any) -> dict[str, Any]:
        import pipeline

        return pipeline.check_drift(
            current_source=params["current_source"],
            psi_threshold=params["psi_threshold"],
            drift_strength=params["drift_strength"],
            force_retrain=params["force_retrain"],
            trigger=dag_run.run_id,
        )

    @task.branch
    def branch_on_drift(checked: dict[str, Any]) -> str:
        return "retrain" if checked["decision"] == "retrain" else "no_retrain"

    @task
    def retrain(checked: dict[str, Any], dag_run: Any) -> dict[str, Any]:
        import pipeline

        return pipeline.retrain(
            current_source=checked["current_source"], drift_strength=checked["drift_strength"], trigger=dag_run.run_id
        )

    @task
    def register_staging(trained: dict[str, Any]) -> dict[str, Any]:
        import pipeline

        return pipeline.register_staging(trained)

    @task
    def no_retrain(checked: dict[str, Any]) -> str:
        return "; ".join(checked["reasons"])

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def ab_evaluate_and_promote(params: dict[str, Any], dag_run: Any) -> dict[str, Any]:
        import pipeline

        return pipeline.evaluate_and_promote(
            ab_alpha=params["ab_alpha"], ab_test=params["ab_test"], trigger=dag_run.run_id
        )

    @task
    def end(evaluated: dict[str, Any]) -> str:
        return f"{evaluated['verdict']}: {'; '.join(evaluated['reasons'])}"

    checked = check_drift()
    trained, skipped = retrain(checked), no_retrain(checked)
    registered, evaluated = register_staging(trained), ab_evaluate_and_promote()
    branch_on_drift(checked) >> [trained, skipped]
    [registered, skipped] >> evaluated
    end(evaluated)


drift_retrain_ab_pipeline()
