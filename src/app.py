"""The router: the one place where the online side is put together.

gunicorn "app:create_app()"
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from flask import Flask

from crossfade.errors import CrossfadeError
from crossfade.forgivinglog import ForgivingLog
from crossfade.logformat import log_to_stdout
from crossfade.modelcache import ModelCache
from crossfade.openlog import keeper_of, open_log, open_newest
from crossfade.postgres.address import DatabaseUrl
from crossfade.requestlog import RequestLog
from crossfade.serving import web
from crossfade.serving.catalog import Catalog, Source, open_source
from crossfade.serving.config import SplitConfig
from crossfade.serving.context import Router
from crossfade.serving.ingestor import Ingestor
from crossfade.serving.leader import Leader
from crossfade.serving.metrics import Metrics
from crossfade.serving.monitor import Monitor
from crossfade.serving.predictor import Predictor
from crossfade.serving.reload import Reloader
from crossfade.settings import Settings, load_settings

if TYPE_CHECKING:
    from crossfade.featurestore import FeatureStore

_log = logging.getLogger("crossfade.router")


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
    background: list[_Background] = []
    try:
        settings = settings or load_settings()
        log_to_stdout(settings.log_format)
        kept = log or _open(settings, background)
    except CrossfadeError as error:
        raise SystemExit(f"error: {error}") from None  # under gunicorn too: one line, no traceback
    copies = settings.router_config.with_name("models") / f"of-{quote(settings.reg_model_name, safe='')}"
    source = registry or open_source(settings.mlflow_tracking_uri, settings.reg_model_name)
    metrics = Metrics(settings.router_config.with_name("workers"))
    log = log or (ForgivingLog(kept, metrics.lost) if settings.log_failure == "serve" else kept)
    reloader = Reloader(
        Catalog(source, settings.model_runtime, ModelCache(copies)),
        settings.prod_alias,
        settings.staging_alias,
        signal=settings.router_config.with_name(".reload"),
        poll_seconds=settings.router_poll_seconds,
    )
    config = _split(settings, reloader, background)
    app = Flask("crossfade")
    app.config["MAX_CONTENT_LENGTH"] = settings.router_max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask types the provider by its base class
    tracing = _tracing(settings)
    make_predictor = tracing.TracedPredictor if tracing else Predictor
    predictor = make_predictor(reloader, config, log, settings.router_max_batch_rows)

    @cache
    def open_store() -> FeatureStore:
        from crossfade.featurestore import FeatureStore  # here: SQLAlchemy is for routers that take rows in

        return store or FeatureStore(settings.feature_store)

    ingestor = Ingestor(reloader, open_store, settings.reg_model_name, settings.router_max_batch_rows)
    tokens = settings.router_api_token, settings.router_admin_token
    reloader.on_look = metrics.looked
    monitor = Monitor(open_newest(settings))
    web.install(app, Router(predictor, reloader, config, log, ingestor, *tokens, metrics, monitor))
    if tracing:
        tracing.trace_requests(app, settings.otel_exporter_otlp_endpoint)
    if not log.commits_in_groups:
        app.wsgi_app = Leader(app.wsgi_app)  # type: ignore[method-assign]
    _say_what_is_open(settings)
    reloader.refresh()
    if follow:
        for part in (reloader, *background):
            part.start()
    return app


def _tracing(settings: Settings) -> ModuleType | None:
    """Import OpenTelemetry where a collector is named: whoever names none does not pay for it."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    try:
        from crossfade.serving import tracing
    except ImportError as error:
        raise SystemExit(
            f"error: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed ({error}): "
            "install crossfade[otel], or unset it"
        ) from None
    return tracing


class _Background(Protocol):
    """What has a thread of its own while the router runs."""

    def start(self) -> None: ...


def _open(settings: Settings, background: list[_Background]) -> RequestLog:
    """Open the request log; a database that is away is waited for, one of a newer Crossfade is not."""
    log = open_log(settings)
    keeper = keeper_of(log, settings)
    if keeper:
        background.append(keeper)
    if isinstance(settings.request_log, DatabaseUrl):
        from crossfade.postgres.log import PostgresRequestLog

        assert isinstance(log, PostgresRequestLog)
        problem = log.open()
        if problem:
            _log.warning("%s; until then rows wait in %s", problem, settings.log_spool)
        background.append(log)
    return log


def _split(settings: Settings, reloader: Reloader, background: list[_Background]) -> SplitConfig:
    """Return the split of this machine, or of all replicas where they share a database."""
    if not isinstance(settings.request_log, DatabaseUrl):
        return SplitConfig(settings.router_config, settings.ab_split_b)
    from crossfade.postgres.shared import SharedState
    from crossfade.serving.replicas import Replicas, SharedSplitConfig  # here: psycopg is for those who have a database

    shared = SharedState(settings.request_log, settings.log_timeout_seconds)
    config = SharedSplitConfig(settings.router_config, settings.ab_split_b, shared)
    background.append(Replicas(shared, config, reloader))
    return config


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
