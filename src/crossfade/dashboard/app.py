"""The dashboard's composition root: gunicorn "crossfade.dashboard.app:create_app()"."""

from __future__ import annotations

import logging
import os

from dash import Dash
from flask import Flask

from crossfade.dashboard import callbacks
from crossfade.dashboard.controls import Controls
from crossfade.dashboard.door import Door
from crossfade.dashboard.panels.frame import page
from crossfade.dashboard.watch import Watch
from crossfade.errors import SettingsError
from crossfade.logformat import log_to_stdout
from crossfade.loop.installation import Installation
from crossfade.settings import Settings, load_settings
from crossfade.stack.airflow import Airflow

_log = logging.getLogger("crossfade.dashboard")

_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Somebody is looking: an MLflow that is down has to show soon."""


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""
"""Dash's own page says nothing of its language."""


def create_app(settings: Settings | None = None, *, follow: bool = True) -> Flask:
    """Make a dashboard.

    Parameters
    ----------
    settings : Settings, optional
        By default read from the environment.
    follow : bool
        Look at everything from background threads; else once, now.
    """
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # who does not answer is told once, not at every retry
    try:
        settings = settings or load_settings()
    except SettingsError as error:
        raise SystemExit(f"error: {error}") from None
    log_to_stdout(settings.log_format)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    here, airflow = Installation.of(settings), Airflow(settings)
    watch, door = Watch(here, airflow), Door(settings)
    server = Flask("crossfade.dashboard")
    door.guard(server)
    server.add_url_rule("/health", "health", lambda: {"status": "ok"})
    app = Dash(
        "crossfade.dashboard",
        server=server,  # type: ignore[arg-type]  # a Flask is what its documentation asks for
        title=f"Crossfade: {settings.reg_model_name}",
        update_title="",
        index_string=_PAGE,
        serve_locally=True,  # nothing is fetched from elsewhere
        suppress_callback_exceptions=True,  # charts come and go with what there is to draw
    )
    app.layout = page(settings.reg_model_name, settings.dashboard_refresh_seconds, door.asks_for_token)
    callbacks.install(app, watch, Controls(here, airflow), door, settings)
    _say_what_is_open(door)
    if follow:
        watch.start()
    else:
        watch.look_now()
    return server


def _say_what_is_open(door: Door) -> None:
    if not door.asks_for_token:
        _log.warning(
            "the split, a roll-back and the DAG are open to anyone who reaches this port: set ROUTER_ADMIN_TOKEN "
            "to have the page ask for it"
        )
