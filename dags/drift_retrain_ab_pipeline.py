"""The learning loop as a DAG: wiring only, every task is one call into `pipeline`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetAlias, BaseOperatorLink, Param, TriggerRule, dag, task
from airflow.timetables.trigger import CronTriggerTimetable

from crossfade.settings import load_settings

SCHEDULE = load_settings().dag_schedule

REQUEST_LOG, STAGING, PROD = Asset("request_log"), Asset("staging"), Asset("prod")
"""What others may schedule on."""

CHANGES = AssetAlias("crossfade_changes")
"""Stands in for them as an outlet: an asset that were one itself would have an event for every run, changed or not."""

LOOP = """
users ─► router ─┬► A: prod ───┬► REQUEST LOG ◄ labels
          ▲      └► B: staging ┘      │
          │                           ▼
          │                      check_drift
          │                    branch_on_drift
          │                     │           │
          │                  retrain    no_retrain
          │             register_staging    │
          │                     └─────┬─────┘
          │                ab_evaluate_and_promote ─► end
          │                           │
          └───── aliases in MLflow ◄──┘
"""

# Airflow's page folds the lines of a block, and its spaces: each line is one of its own, with spaces that stay.
PICTURE = "  \n".join(f"`{line.replace(' ', chr(0xA0))}`" for line in LOOP.strip().splitlines())

DOC = f"""
### Drift → retrain → A/B → promote

Watches live traffic, retrains when it pays, tests the new version on part of the users, and moves `prod` when the
evidence is good.

{PICTURE}

| task | what it does | where to read it |
|---|---|---|
| `check_drift` | holds live rows against what the version in production learnt, and decides: `retrain`, `monitor`, or \
`block` where the rows are broken and a retraining would learn the bug | its log, *Drift report*, *MLflow run* |
| `retrain` | trains with AutoML on what was learnt before plus the labelled rows seen since; the challenger must beat \
the champion on the newest of them | its log, *Leaderboard*, *MLflow run* |
| `register_staging` | registers it in MLflow: as `staging` (arm B of the router), or as `rejected`. The very first \
version becomes `prod` at once | *Model version* |
| `no_retrain` | says why nothing is trained | its log |
| `ab_evaluate_and_promote` | looks at the running experiment, whichever branch was taken, and moves `prod` when the \
evidence is good | its log, *Evaluation*, *MLflow run*, *Model version* |

The words in italics are links of the task (its tab *Details*). Every task is safe to run twice. Leave a
parameter of the trigger form empty to use the installation's setting.

**Schedule on it.** `schedule=[Asset("prod")]` runs another DAG when a new version is in production, `Asset("staging")`
when there is a new challenger, `Asset("request_log")` when a check met new rows. Each event carries what changed:
`model`, `version` and `run_id`, or `rows`, `first_ts` and `last_ts`. No change, no event.
"""

TASKS = {
    "check_drift": "Holds live rows against what the version in production learnt, and decides whether to retrain.",
    "branch_on_drift": "Goes where the decision of `check_drift` says.",
    "retrain": "Trains a challenger with AutoML, and holds it against the champion on the newest labelled rows.",
    "register_staging": "Registers the challenger in MLflow: as `staging` when it beat the champion, else `rejected`.",
    "no_retrain": "Says why nothing is trained.",
    "ab_evaluate_and_promote": "Looks at the running experiment, and moves `prod` when the evidence is good.",
    "end": "Says what came of it.",
}

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


class Page(BaseOperatorLink):
    """A link of a task to a page that the result of the task names."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """What the button says."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the address: links of one class would share one otherwise."""
        return f"_link_{self._name.replace(' ', '_')}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Take the address from what the task returned; empty when it did not run, or MLflow has no web address."""
        result = ti_key.xcom_pull(task_ids=operator.task_id)
        return str(result.get("links", {}).get(self._name, "")) if result else ""


LINKS = {
    "check_drift": ("Drift report", "MLflow run"),
    "retrain": ("Leaderboard", "MLflow run"),
    "register_staging": ("Model version",),
    "ab_evaluate_and_promote": ("Evaluation", "MLflow run", "Model version"),
}


def tell_changes(context: Any, result: dict[str, Any]) -> None:
    """Have an event of each asset that is not as its last event said."""
    import pipeline

    window = result.get("window") or {}
    facts: dict[str, Any] = {**pipeline.standing(), **({"request_log": window} if window.get("last_ts") else {})}
    for asset in (REQUEST_LOG, STAGING, PROD):
        known = context["inlet_events"][asset].ascending(False).limit(1)
        if asset.name in facts and not (len(known) and known[0].extra == facts[asset.name]):
            context["outlet_events"][CHANGES].add(asset, facts[asset.name])


TELLS: dict[str, Any] = {
    "inlets": [REQUEST_LOG, STAGING, PROD],
    "outlets": [CHANGES],
    "post_execute": tell_changes,
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

    @task(**TELLS)
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
            current_source=checked["current_source"],
            drift_strength=checked["drift_strength"],
            trigger=dag_run.run_id,
            drift_run_id=checked["run_id"],
        )

    @task(**TELLS)
    def register_staging(trained: dict[str, Any]) -> dict[str, Any]:
        import pipeline

        return pipeline.register_staging(trained)

    @task
    def no_retrain(checked: dict[str, Any]) -> str:
        return f"Nothing is trained ({checked['decision']}), because {'; '.join(checked['reasons'])}"

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS, **TELLS)
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
    branch = branch_on_drift(checked)
    branch >> [trained, skipped]
    [registered, skipped] >> evaluated
    ended = end(evaluated)
    for made in (checked, branch, trained, skipped, registered, evaluated, ended):
        operator: Any = made.operator
        operator.doc_md = TASKS[operator.task_id]
        operator.operator_extra_links = tuple(Page(name) for name in LINKS.get(operator.task_id, ()))


drift_retrain_ab_pipeline()
