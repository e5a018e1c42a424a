"""Settings: read once, refused with one line each, relative to one home."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfade.errors import SettingsError
from crossfade.settings import Settings, load_settings, settings_table


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("CROSSFADE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ROUTER_PORT", "99999", "less than or equal to 65535"),
        ("ROUTER_PORT", "http", "valid integer"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "not gRPC"),
        ("PSI_THRESHOLD", "-0.1", "greater than or equal to 0"),
        ("PSI_THRESHOLD", "nan", "finite number"),
        ("PREVIOUS_ALIAS", "prod", "must differ"),
        ("DRIFT_WINDOW_ROWS", "100", "DRIFT_MIN_ROWS (200)"),
        ("DRIFT_ALPHA", "0", "greater than 0"),
        ("AB_ALPHA", "1", "less than 1"),
        ("AB_SPLIT_B", "1.5", "less than or equal to 1"),
        ("AB_MIN_LABELED", "0", "greater than or equal to 1"),
        ("PROD_ALIAS", "v3", "neither `latest` nor `v<number>`"),
        ("STAGING_ALIAS", "latest", "neither `latest` nor `v<number>`"),
        ("AB_TEST", "t-test", "chi2"),
        ("LOG_RETENTION_DAYS", "7", "AB_MAX_DAYS (7), and its rows decide: give 8 at least, or 0 for ever"),
        ("LOG_TIMEOUT_SECONDS", "0", "greater than 0"),
        (
            "DATASET",
            "titanic",
            "iris, wine, breast_cancer, a file that ends in .csv",
        ),
        ("REG_MODEL_NAME", "a/b", "pattern"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad value is a SettingsError of one line with the setting, the value and what is allowed."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"{name}={value!r} ")
    assert allowed in message


def test_every_bad_value_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bad values are two lines, so that both are corrected at once."""
    monkeypatch.setenv("ROUTER_PORT", "0")
    monkeypatch.setenv("AB_ALPHA", "2")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert sorted(line.split("=")[0] for line in str(refused.value).splitlines()) == ["AB_ALPHA", "ROUTER_PORT"]


def test_a_list_of_models_that_names_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTOML_MODELS without a single id is refused at start: PyCaret would compare every model it knows."""
    monkeypatch.setenv("AUTOML_MODELS", " , ")
    with pytest.raises(SettingsError, match="AUTOML_MODELS"):
        load_settings()


@pytest.mark.parametrize("schedule", ["none", "@hourly", "*/5 * * * *", "0 6 * * MON-FRI", "15,45 2-4 1 */2 *"])
def test_a_schedule_is_crons_or_a_name(schedule: str) -> None:
    """DAG_SCHEDULE takes cron's five fields, the usual names, or none."""
    assert load_settings(dag_schedule=schedule).dag_schedule == schedule


@pytest.mark.parametrize(
    "schedule",
    [
        "daily",
        "@never",
        "* * * *",
        "* * * * * *",
        "every 5 minutes",
        "* * * * ?;",
        "99 * * * *",
        "* 5-2 * * *",
        "*/0 * * * *",
        "a b c d e",
        "* * 0 * *",
    ],
)
def test_another_schedule_is_refused(schedule: str) -> None:
    """A schedule that Airflow could not read is refused at start, with an example."""
    with pytest.raises(SettingsError, match=r"DAG_SCHEDULE.*@daily.*\*/5 \* \* \* \*"):
        load_settings(dag_schedule=schedule)


@pytest.mark.parametrize("name", ["router_api_token", "router_admin_token", "airflow_password"])
def test_a_refused_secret_is_not_shown(name: str) -> None:
    """A token or password that is refused does not stand in the error."""
    with pytest.raises(SettingsError) as refused:
        load_settings(**{name: ["s3cret"]})
    assert "s3cret" not in str(refused.value)
    assert name.upper() in str(refused.value)


@pytest.mark.parametrize("name", ["ROUTER_API_TOKEN", "ROUTER_ADMIN_TOKEN", "AIRFLOW_PASSWORD"])
def test_secrets_are_not_printed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing the settings, or refusing another one, shows no token and no password."""
    monkeypatch.setenv(name, "s3cret")
    assert "s3cret" not in repr(load_settings())
    monkeypatch.setenv("ROUTER_PORT", "0")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


def test_relative_paths_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are taken from CROSSFADE_HOME, wherever the program was started."""
    monkeypatch.setenv("REQUEST_LOG", "elsewhere/r.csv")
    settings = load_settings()
    assert settings.request_log == tmp_path / "elsewhere" / "r.csv"
    assert settings.labels_log == tmp_path / "elsewhere" / "labels.csv"
    assert settings.router_config == tmp_path / "var/logs/router_config.json"


def test_absolute_paths_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path is taken as it is."""
    monkeypatch.setenv("AB_EVAL_REPORT", "/reports/ab.json")
    assert load_settings().ab_eval_report == Path("/reports/ab.json")


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative CROSSFADE_HOME is resolved, so that a later change of folder moves no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSFADE_HOME", "sub")
    assert load_settings().var == tmp_path / "sub" / "var"


def test_dotenv_in_home_is_read(tmp_path: Path) -> None:
    """A line of `.env` in CROSSFADE_HOME sets what the environment does not."""
    (tmp_path / ".env").write_text("PSI_THRESHOLD=0.35\n")
    assert load_settings().psi_threshold == 0.35


def test_the_environment_wins_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over `.env`."""
    (tmp_path / ".env").write_text("PSI_THRESHOLD=0.35\n")
    monkeypatch.setenv("PSI_THRESHOLD", "0.4")
    assert load_settings().psi_threshold == 0.4


def test_an_override_wins_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value given in code (the trigger form) wins over the environment and `.env`."""
    (tmp_path / ".env").write_text("PSI_THRESHOLD=0.35\n")
    monkeypatch.setenv("PSI_THRESHOLD", "0.4")
    assert load_settings(psi_threshold=0.5).psi_threshold == 0.5


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable, as compose passes unset ones, leaves the default."""
    monkeypatch.setenv("ROUTER_ADMIN_TOKEN", "")
    monkeypatch.setenv("ROUTER_PORT", "")
    settings = load_settings()
    assert settings.router_admin_token is None
    assert settings.router_port == 8080


def test_services_default_to_this_machine() -> None:
    """Out of the box the router is on 8080, MLflow on 4200 and Airflow on 8088, all on 127.0.0.1."""
    settings = load_settings()
    assert settings.router_url == "http://127.0.0.1:8080"
    assert settings.mlflow_tracking_uri == "http://127.0.0.1:4200"
    assert settings.airflow_url == "http://127.0.0.1:8088"
    assert settings.bind_host == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_service_that_listens_everywhere_is_found_on_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service bound to every address is looked for on loopback, at its own port."""
    monkeypatch.setenv("BIND_HOST", host)
    monkeypatch.setenv("MLFLOW_PORT", "5001")
    assert load_settings().mlflow_tracking_uri == "http://127.0.0.1:5001"


def test_a_given_url_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that is given is used, without its closing slash."""
    monkeypatch.setenv("ROUTER_URL", "http://router:8080/")
    assert load_settings().router_url == "http://router:8080"


def test_settings_do_not_change() -> None:
    """Settings are immutable once read."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().router_port = 1


def test_the_table_names_every_setting() -> None:
    """The README's table has one line per setting and shows no default password in SecretStr's own stars."""
    table = settings_table()
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == [name.upper() for name in Settings.model_fields]
    assert "**" not in table
