"""The router: the one place where the online side is put together.

gunicorn "app:create_app()"
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from flask import Flask

from crossfade.errors import SettingsError
from crossfade.forgivinglog import ForgivingLog
from crossfade.logformat import log_to_stdout
from crossfade.logrotation import LogKeeper
from crossfade.modelcache import ModelCache
from crossfade.requestlog import CsvRequestLog, RequestLog
from crossfade.serving import web
from crossfade.serving.catalog import Catalog, Source, open_source
from crossfade.serving.config import SplitConfig
from crossfade.serving.context import Router
from crossfade.serving.ingestor import Ingestor
from crossfade.serving.metrics import Metrics
from crossfade.serving.monitor import Monitor
from crossfade.serving.predictor import Predictor
from crossfade.serving.reload import Reloader
from crossfade.settings import Settings, load_settings

if TYPE_CHECKING:
    from crossfade.featurestore import FeatureStore

_log = logging.getLogger("crossfade.router")

_TURN_SECONDS = 0.0005
"""How long a thread may run Python while another wants to. A request that waits for it waits that long, and with the
interpreter's own 5 ms the slowest in a hundred took 12 ms where most took one."""


def create_app(
    settings: Settings | None = None,
    *,
    registry: Source | None = None,
    log: RequestLog | None = None,
    store: FeatureStore | None = None,
    follow: bool = True,
) -> Flask:
    """Make a router.

    Parameters
    ----------
    settings : Settings, optional
        By default read from the environment.
    registry, log, store : optional
        In place of those the settings name.
    follow : bool
        Follow the registry from a background thread; else look only when told to.
    """
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a dead MLflow is reported once, not at every retry
    try:
        settings = settings or load_settings()
    except SettingsError as error:
        raise SystemExit(f"error: {error}") from None  # under gunicorn too: one line, no traceback
    log_to_stdout(settings.log_format)
    sys.setswitchinterval(_TURN_SECONDS)
    copies = settings.router_config.with_name("models") / f"of-{quote(settings.reg_model_name, safe='')}"
    source = registry or open_source(settings.mlflow_tracking_uri, settings.reg_model_name)
    metrics = Metrics(settings.router_config.with_name("workers"))
    files = CsvRequestLog(settings.request_log, settings.labels_log, settings.log_fsync, settings.log_timeout_seconds)
    keeper = LogKeeper(files, settings.log_retention_days) if log is None and settings.log_rotate == "daily" else None
    log = log or (ForgivingLog(files, metrics.lost) if settings.log_failure == "serve" else files)
    config = SplitConfig(settings.router_config, settings.ab_split_b)
    reloader = Reloader(
        Catalog(source, settings.model_runtime, ModelCache(copies)),
        settings.prod_alias,
        settings.staging_alias,
        signal=settings.router_config.with_name(".reload"),
        poll_seconds=settings.router_poll_seconds,
    )
    app = Flask("crossfade")
    app.config["MAX_CONTENT_LENGTH"] = settings.router_max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask types the provider by its base class
    predictor = Predictor(reloader, config, log, settings.router_max_batch_rows)

    @cache
    def open_store() -> FeatureStore:
        from crossfade.featurestore import FeatureStore  # here: SQLAlchemy is for routers that take rows in

        return store or FeatureStore(settings.feature_store)

    ingestor = Ingestor(reloader, open_store, settings.reg_model_name, settings.router_max_batch_rows)
    tokens = settings.router_api_token, settings.router_admin_token
    reloader.on_look = metrics.looked
    monitor = Monitor(settings.request_log, settings.labels_log)
    web.install(app, Router(predictor, reloader, config, log, ingestor, *tokens, metrics, monitor))
    _say_what_is_open(settings)
    reloader.refresh()
    if follow:
        reloader.start()
        if keeper:
            keeper.start()
    return app


def _say_what_is_open(settings: Settings) -> None:
    if settings.router_api_token is None:
        _log.warning(
            "predictions, labels, ingested rows and /monitor are open to anyone who reaches this port: "
            "set ROUTER_API_TOKEN to close them"
        )
    if settings.router_admin_token is None:
        _log.warning(
            "POST /config and /reload are open to anyone who reaches this port: set ROUTER_ADMIN_TOKEN to close them"
        )
