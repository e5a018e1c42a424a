"""Every knob, once.

A setting is an environment variable, or a line in the file `.env`, of the field's name in capitals. Settings are read
in the composition roots only (`app`, `pipeline`, the command line) and handed down from there.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossfade.errors import SettingsError, without_login

BUNDLED_TABLES = ("iris", "wine", "breast_cancer")
TABLE_ENDINGS = (".csv", ".csv.gz", ".parquet")

Port = Annotated[int, Field(ge=1, le=65535)]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


_PRESETS = ("none", "@hourly", "@daily", "@weekly", "@monthly", "@yearly")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_CRON: tuple[tuple[int, int, list[str]], ...] = ((0, 59, []), (0, 23, []), (1, 31, []), (1, 12, _MONTHS), (0, 7, _DAYS))
"""Least and greatest number of each field of a schedule, and the names that it knows."""


def _is_cron(field: str, allowed: tuple[int, int, list[str]]) -> bool:
    """Tell whether a field is a list of `*`, a value, or a range, each with or without a step."""
    least, greatest, names = allowed
    for item in field.lower().split(","):
        span, slash, step = item.partition("/")
        ends = [names.index(end) + least if end in names else end for end in span.split("-", 1)] if span != "*" else []
        numbers = [int(end) if str(end).isdecimal() else -1 for end in ends]
        if not all(least <= number <= greatest for number in numbers) or numbers != sorted(numbers):
            return False
        if slash and not (step.isdecimal() and int(step) > 0):
            return False
    return True


def _alias_name(name: str) -> str:
    """Refuse what MLflow reserves: its UI would show such an alias and its API refuse it."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or re.fullmatch(r"latest|[vV]\d+", name):
        raise ValueError("an alias is letters, digits, - and _, and neither `latest` nor `v<number>`")
    return name


Alias = Annotated[str, AfterValidator(_alias_name)]


class Settings(BaseSettings):
    """The settings of one installation; immutable once read."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, env_ignore_empty=True, validate_default=True, allow_inf_nan=False
    )

    crossfade_home: Annotated[Path, Field(description="folder that relative paths below start from")] = Path()

    # Where the services listen
    bind_host: Annotated[str, Field(description="address that every service listens on")] = "127.0.0.1"
    router_port: Annotated[Port, Field(description="port of the router")] = 8080
    mlflow_port: Annotated[Port, Field(description="port of the MLflow server that `crossfade up` starts")] = 4200
    airflow_port: Annotated[Port, Field(description="port of the Airflow that `crossfade up` starts")] = 8088
    dashboard_port: Annotated[Port, Field(description="port of the dashboard")] = 8050
    airflow_user: Annotated[str, Field(description="Airflow login", pattern=r"^[\w.-]+$")] = "admin"
    airflow_password: Annotated[SecretStr, Field(description="Airflow password")] = SecretStr("admin")
    router_url: Annotated[str, Field(description="where the pipeline finds the router; empty: this machine")] = ""
    airflow_url: Annotated[
        str, Field(description="where the command line and the dashboard find Airflow; empty: this machine")
    ] = ""

    # Models and data
    mlflow_tracking_uri: Annotated[
        str, Field(description="MLflow server, or a database URL to work without one; empty: this machine")
    ] = ""
    mlflow_experiment: Annotated[str, Field(description="MLflow experiment that the runs go to", min_length=1)] = (
        "crossfade"
    )
    reg_model_name: Annotated[str, Field(description="name of the registered model", pattern=r"^[^/:\s]+$")] = (
        "IrisClassifier"
    )
    prod_alias: Annotated[Alias, Field(description="alias of the version in production (arm A)")] = "prod"
    staging_alias: Annotated[Alias, Field(description="alias of the challenger (arm B)")] = "staging"
    previous_alias: Annotated[Alias, Field(description="alias of what prod was before, for rollback")] = "previous"
    dataset: Annotated[
        str,
        Field(
            description="table the first model learns: `iris`, `wine`, `breast_cancer`, a CSV, CSV.gz or Parquet file, "
            "or a SQLAlchemy URL"
        ),
    ] = "iris"
    dataset_query: Annotated[
        str, Field(validate_default=True, description="SQL query that yields the rows, where DATASET is a URL")
    ] = ""
    target: Annotated[str, Field(description="column of the label", min_length=1)] = "target"
    dataset_time_column: Annotated[str, Field(description="column that orders the rows in time; never a feature")] = ""
    dataset_id_column: Annotated[str, Field(description="column that names a row; never a feature")] = ""
    dataset_features: Annotated[
        str, Field(description="columns to learn from, comma-separated; empty: all that can be")
    ] = ""
    dataset_categorical: Annotated[
        str, Field(description="columns of numbers that are codes, comma-separated: each becomes a category")
    ] = ""
    feature_store: Annotated[
        str, Field(description="SQLAlchemy URL of the rows that /ingest takes; empty: SQLite in `var/`")
    ] = ""

    # Drift
    psi_threshold: Annotated[float, Field(ge=0, description="PSI above this is large enough to matter")] = 0.2
    ks_threshold: Annotated[Share, Field(description="KS distance above this is large enough to matter")] = 0.1
    drift_alpha: Annotated[Level, Field(description="family-wise error level of the drift tests")] = 0.01
    drift_share: Annotated[
        float, Field(ge=0, lt=1, description="drift is called when more than this share of the columns drifted")
    ] = 0.0
    drift_min_rows: Annotated[Count, Field(description="below this many live rows: `insufficient_data`")] = 200
    drift_window_rows: Annotated[Count, Field(description="how many of the newest rows are checked")] = 1000
    drift_strength: Annotated[
        float,
        Field(description="shift of simulated traffic, in standard deviations of each feature", ge=-10, le=10),
    ] = 0.5

    engine: Annotated[
        Literal["local", "dask", "spark"],
        Field(description="where the drift check counts, and on Dask AutoML compares: here, or on a cluster"),
    ] = "local"
    engine_address: Annotated[
        str, Field(description="Dask scheduler or Spark master; empty: a cluster of two workers on this machine")
    ] = ""
    dag_schedule: Annotated[
        str,
        Field(description="when Airflow runs the DAG: a cron expression, @daily and the like, or `none`: by hand only"),
    ] = "@daily"

    # Retraining
    retrain_on: Annotated[
        Literal["drift,quality", "drift", "quality"],
        Field(description="what calls for a retraining: drift of the inputs, a fall in quality, or either"),
    ] = "drift,quality"
    retrain_min_labeled: Annotated[Count, Field(description="new labelled rows that a retraining needs")] = 100
    retrain_cooldown_hours: Annotated[
        float, Field(ge=0, description="hours after a challenger was trained in which no other is")
    ] = 1.0
    retrain_max_age_days: Annotated[
        float, Field(ge=0, description="days without a training after which new labels alone call for one; 0: never")
    ] = 30.0
    automl_models: Annotated[str, Field(description="PyCaret model ids to compare, comma-separated", min_length=1)] = (
        "lr,lda,nb,knn,dt,rf,lightgbm"
    )
    automl_folds: Annotated[int, Field(ge=2, description="cross-validation folds")] = 5
    automl_seed: Annotated[int, Field(ge=0, description="seed of splits and models")] = 42
    automl_budget_seconds: Annotated[
        float, Field(gt=0, description="no further algorithm is tried after this time")
    ] = 600
    holdout_share: Annotated[
        Level, Field(description="newest share of the new rows that is held out for the champion gate")
    ] = 0.5
    holdout_max_rows: Annotated[Count, Field(description="most rows that are held out")] = 500
    gate_max_recall_drop: Annotated[
        Share,
        Field(description="recall that a challenger may lose in a class, unless the champion had it by over-answering"),
    ] = 0.05

    # A/B test
    ab_split_b: Annotated[Share, Field(description="share of users on B until `POST /config` says otherwise")] = 0.5
    ab_test: Annotated[
        Literal["chi2", "anytime", "paired"],
        Field(description="gate that decides on promotion; `anytime` and `paired` may be looked at daily"),
    ] = "chi2"
    ab_one_per_user: Annotated[bool, Field(description="count only the first labelled row of each user")] = False
    ab_alpha: Annotated[Level, Field(description="p-value below which B's difference counts")] = 0.05
    ab_min_labeled: Annotated[Count, Field(description="labelled rows that each arm needs")] = 30
    ab_min_delta_acc: Annotated[Share, Field(description="accuracy that B must be ahead by at least")] = 0.0
    ab_max_days: Annotated[
        float, Field(gt=0, description="days of traffic after which an experiment without a verdict is given up")
    ] = 7
    ab_max_labeled: Annotated[
        Count, Field(description="labelled rows of each arm after which an experiment without a verdict is given up")
    ] = 50_000
    ab_ramp: Annotated[
        str,
        Field(
            description="rising shares of users on B, such as `0.05,0.2,0.5`: a challenger starts with the first, each "
            "look without an objection goes one further, a breached guardrail takes B out; empty: no ramp"
        ),
    ] = ""
    ab_auto_rollback: Annotated[
        bool,
        Field(description="put `previous` back when prod is worse than it was in the experiment that it lost"),
    ] = False

    # Router
    router_server: Annotated[
        Literal["gunicorn", "granian"],
        Field(description="HTTP server that runs the router; `granian` is the faster one"),
    ] = "gunicorn"
    model_runtime: Annotated[
        Literal["auto", "onnx", "pipeline"],
        Field(
            description="`auto` serves a model's compiled form where it has one; `onnx` nothing else, and unpickles "
            "nothing; `pipeline` the model as it was trained"
        ),
    ] = "auto"
    router_workers: Annotated[Count, Field(description="worker processes")] = 2
    router_threads: Annotated[Count, Field(description="threads of each worker")] = 4
    router_poll_seconds: Annotated[
        float, Field(gt=0, description="how often the registry is asked for moved aliases")
    ] = 2.0
    router_max_body_bytes: Annotated[Count, Field(description="largest request body")] = 4 * 2**20
    router_max_batch_rows: Annotated[Count, Field(description="most rows of one batch")] = 10_000
    router_api_token: Annotated[
        SecretStr | None,
        Field(description="bearer token for predictions, labels, ingested rows and /monitor; unset: open"),
    ] = None
    router_admin_token: Annotated[
        SecretStr | None, Field(description="bearer token for POST /config and /reload; unset: open")
    ] = None

    log_format: Annotated[
        Literal["text", "json"],
        Field(description="the router's log lines: `text` for people, `json` for machines (the containers' default)"),
    ] = "text"

    otel_exporter_otlp_endpoint: Annotated[
        str,
        Field(
            description="OpenTelemetry collector (OTLP over HTTP) that gets a span of each of the router's requests, "
            "such as `http://127.0.0.1:4318`; empty: none"
        ),
    ] = ""

    # Dashboard
    dashboard_refresh_seconds: Annotated[
        float, Field(ge=1, description="how often the dashboard looks, and an open page is brought up to date")
    ] = 5.0
    dashboard_log_rows: Annotated[
        Count, Field(description="newest rows of the request log that the dashboard keeps, in some 30 bytes each")
    ] = 1_000_000
    mlflow_ui_url: Annotated[
        str, Field(description="where a browser finds MLflow, for the dashboard's links; empty: MLFLOW_TRACKING_URI")
    ] = ""
    airflow_ui_url: Annotated[
        str, Field(description="where a browser finds Airflow, for the dashboard's links; empty: AIRFLOW_URL")
    ] = ""

    # Files
    request_log: Annotated[Path, Field(description="request log; `labels.csv` lies beside it")] = Path(
        "var/logs/requests.csv"
    )
    log_fsync: Annotated[
        Literal["never", "interval", "always"],
        Field(
            description="what a power cut may take from the request log: `never` what the kernel has not written by "
            "itself, `interval` a second, `always` nothing. What a killed process has logged is safe in any case"
        ),
    ] = "never"
    log_failure: Annotated[
        Literal["refuse", "serve"],
        Field(description="what a request gets that cannot be logged: 503, or its answer, and the lost row is counted"),
    ] = "refuse"
    log_timeout_seconds: Annotated[
        float, Field(gt=0, description="how long a request waits for a disk that does not answer")
    ] = 5
    log_rotate: Annotated[
        Literal["daily", "never"],
        Field(description="`daily` moves a day's rows to `requests.<day>.parquet`; `never` keeps one file, for ever"),
    ] = "daily"
    log_retention_days: Annotated[
        int, Field(ge=0, description="days that a day's rows and late labels are kept; 0: for ever")
    ] = 30
    service_log_days: Annotated[
        int,
        Field(ge=0, description="days that a service's log, `var/logs/<service>_<day>.log`, is kept; 0: for ever"),
    ] = 7
    router_config: Annotated[Path, Field(description="the split in force, written by `POST /config`")] = Path(
        "var/logs/router_config.json"
    )
    report_dir: Annotated[Path, Field(description="policy/, metrics/, tracking/ and manifest.json")] = Path("var/logs")
    drift_report_dir: Annotated[Path, Field(description="drift reports")] = Path("var/logs/drift_reports")
    ab_eval_report: Annotated[Path, Field(description="newest A/B evaluation")] = Path(
        "var/logs/ab_reports/ab_eval_latest.json"
    )

    @field_validator("dataset", mode="after")
    @classmethod
    def _some_table(cls, dataset: str) -> str:
        if dataset not in BUNDLED_TABLES and "://" not in dataset and not dataset.endswith(TABLE_ENDINGS):
            raise ValueError(
                f"allowed are {', '.join(BUNDLED_TABLES)}, a file that ends in {', '.join(TABLE_ENDINGS)}, "
                "or a SQLAlchemy URL"
            )
        return dataset

    @field_validator("dataset_query", mode="after")
    @classmethod
    def _query_goes_with_a_url(cls, query: str, info: ValidationInfo) -> str:
        is_url = "://" in info.data.get("dataset", "")
        if is_url != bool(query):
            raise ValueError("DATASET is a URL: say which rows" if is_url else "only a DATASET that is a URL takes one")
        return query

    @field_validator("engine_address", mode="after")
    @classmethod
    def _address_of_a_cluster(cls, address: str, info: ValidationInfo) -> str:
        if address and info.data.get("engine") == "local":
            raise ValueError("ENGINE=local has no address; set ENGINE to dask or spark, or take the address away")
        return address

    @field_validator("ab_ramp", mode="after")
    @classmethod
    def _rises(cls, ramp: str) -> str:
        try:
            shares = [float(share) for share in _listed(ramp)]
        except ValueError:
            shares = [0.0]
        if not all(low < high for low, high in pairwise([0.0, *shares])) or any(share > 1 for share in shares):
            raise ValueError("give shares of users above 0 and up to 1, each higher than the one before: 0.05,0.2,0.5")
        return ramp

    @field_validator("dag_schedule", mode="after")
    @classmethod
    def _some_schedule(cls, schedule: str) -> str:
        fields = schedule.split()
        if schedule not in _PRESETS and not (len(fields) == len(_CRON) and all(map(_is_cron, fields, _CRON))):
            raise ValueError(f"allowed are {', '.join(_PRESETS)}, or the five fields of cron, such as */5 * * * *")
        return schedule

    @field_validator("automl_models", mode="after")
    @classmethod
    def _some_models(cls, models: str) -> str:
        if not models.replace(",", "").strip():
            raise ValueError("name at least one PyCaret model id, for example lr,rf")
        return models

    @field_validator("router_api_token", "router_admin_token", mode="after")
    @classmethod
    def _header_safe(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
            raise ValueError("a token is printable ASCII without spaces: it has to fit into a header")
        return token

    @field_validator("otel_exporter_otlp_endpoint", mode="after")
    @classmethod
    def _over_http(cls, endpoint: str) -> str:
        if endpoint and not re.match(r"https?://[^/]", endpoint):
            raise ValueError("give http://<host>:<port> or https://<host>:<port>, for OTLP over HTTP (not gRPC)")
        return endpoint

    @field_validator("feature_store", mode="after")
    @classmethod
    def _embedded_store(cls, url: str, info: ValidationInfo) -> str:
        scheme, _, place = url.partition("://")
        if url and scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            raise ValueError("give sqlite:///<file> or postgresql+psycopg2://<host>/<database>")
        home = info.data.get("crossfade_home", Path())
        if scheme == "sqlite" or not url:  # a relative file starts from CROSSFADE_HOME, wherever a process was started
            return f"sqlite:///{home / (place.removeprefix('/') or 'var/features.db')}"
        return url

    @field_validator("crossfade_home", mode="after")
    @classmethod
    def _absolute_home(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @field_validator("request_log", "router_config", "report_dir", "drift_report_dir", "ab_eval_report", mode="after")
    @classmethod
    def _below_home(cls, path: Path, info: ValidationInfo) -> Path:
        return info.data["crossfade_home"] / path.expanduser() if "crossfade_home" in info.data else path

    @field_validator("router_url", "airflow_url", "mlflow_tracking_uri", mode="after")
    @classmethod
    def _own_service(cls, url: str, info: ValidationInfo) -> str:
        """Default to the service of the same name on this machine."""
        port_of = {"router_url": "router_port", "airflow_url": "airflow_port", "mlflow_tracking_uri": "mlflow_port"}
        port = info.data.get(port_of[str(info.field_name)])
        return url.rstrip("/") or f"http://{_reachable(str(info.data.get('bind_host')))}:{port}"

    @field_validator("mlflow_ui_url", "airflow_ui_url", mode="after")
    @classmethod
    def _where_a_browser_goes(cls, url: str, info: ValidationInfo) -> str:
        same = {"mlflow_ui_url": "mlflow_tracking_uri", "airflow_ui_url": "airflow_url"}[str(info.field_name)]
        return (url or info.data.get(same, "")).rstrip("/")

    @field_validator("drift_window_rows", mode="after")
    @classmethod
    def _window_holds_the_minimum(cls, rows: int, info: ValidationInfo) -> int:
        if rows < info.data.get("drift_min_rows", 0):
            raise ValueError(f"the window must hold DRIFT_MIN_ROWS ({info.data['drift_min_rows']}) rows at least")
        return rows

    @field_validator("log_retention_days", mode="after")
    @classmethod
    def _outlives_an_experiment(cls, days: int, info: ValidationInfo) -> int:
        longest = info.data.get("ab_max_days", 0)
        if 0 < days < longest + 1:
            raise ValueError(
                f"an experiment may last AB_MAX_DAYS ({longest:g}), and its rows decide: give {ceil(longest) + 1} at "
                "least, or 0 for ever"
            )
        return days

    @field_validator("staging_alias", "previous_alias", mode="after")
    @classmethod
    def _aliases_differ(cls, alias: str, info: ValidationInfo) -> str:
        if alias in (info.data.get("prod_alias"), info.data.get("staging_alias")):
            raise ValueError("the three aliases must differ")
        return alias

    @field_validator("ab_max_labeled", mode="after")
    @classmethod
    def _holds_the_minimum(cls, rows: int, info: ValidationInfo) -> int:
        if rows < info.data.get("ab_min_labeled", 0):
            raise ValueError(f"it must be AB_MIN_LABELED ({info.data['ab_min_labeled']}) at least")
        return rows

    @property
    def reachable_host(self) -> str:
        """Address under which this machine finds its own services."""
        return _reachable(self.bind_host)

    @property
    def var(self) -> Path:
        """Folder of the embedded services' own state (databases, logs)."""
        return self.crossfade_home / "var"

    @property
    def service_log_folder(self) -> Path:
        """Folder of what the embedded services print."""
        return self.var / "logs"

    @property
    def labels_log(self) -> Path:
        """File of the labels that came later."""
        return self.request_log.with_name("labels.csv")

    @property
    def dataset_shown(self) -> str:
        """The dataset's name for messages: without the login that a URL may hold."""
        return without_login(self.dataset)

    @property
    def dataset_feature_names(self) -> list[str]:
        """The columns to learn from; empty: all that can be."""
        return _listed(self.dataset_features)

    @property
    def dataset_categorical_names(self) -> list[str]:
        """The columns of numbers that are categories."""
        return _listed(self.dataset_categorical)

    def below_home(self, path: str | Path) -> Path:
        """Return a path as it stands, a relative one from CROSSFADE_HOME."""
        return self.crossfade_home / Path(path).expanduser()

    @property
    def api_token(self) -> str | None:
        """The bearer token for predictions, labels, ingested rows and /monitor, in clear."""
        return self.router_api_token.get_secret_value() if self.router_api_token else None

    @property
    def ab_ramp_shares(self) -> list[float]:
        """B's shares of the users, in order; empty: no ramp."""
        return [float(share) for share in _listed(self.ab_ramp)]

    @property
    def automl_model_ids(self) -> list[str]:
        """The PyCaret model ids to compare."""
        return _listed(self.automl_models)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and from `.env` in CROSSFADE_HOME.

    Parameters
    ----------
    **overrides
        Field values that win over both, by field name.

    Raises
    ------
    SettingsError
        One line per bad value: the setting, the value, what is allowed.
    """
    home = overrides.get("crossfade_home") or os.environ.get("CROSSFADE_HOME") or "."
    try:
        return Settings(_env_file=Path(home) / ".env", **overrides)  # type: ignore[call-arg]  # pydantic-settings' own
    except ValidationError as error:
        lines = [_explain(problem["loc"], problem["input"], problem["msg"]) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _reachable(bind_host: str) -> str:
    everywhere = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
    return "127.0.0.1" if bind_host in everywhere else bind_host


def _explain(loc: tuple[int | str, ...], value: object, allowed: str) -> str:
    name = str(loc[0]).upper()
    shown = "***" if "TOKEN" in name or "PASSWORD" in name else _shown(value)
    return f"{name}={shown} is not allowed: {allowed[0].lower()}{allowed[1:]}. Change it in the environment or in .env."


def _shown(value: object) -> str:
    return repr(without_login(value) if isinstance(value, str) and "://" in value else value)


def settings_table() -> str:
    """Markdown table of every setting, its default and its meaning (the README's table is this one)."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        default = "" if value in (None, "") else f"`{value}`"
        lines.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)
