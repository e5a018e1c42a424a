"""OpenTelemetry: a span per request, sent in the background; imported only when a collector is named.

What is not ours to decide stays with OpenTelemetry's own variables (sampling, headers, the service's name, the size of
its queue): its SDK reads them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from flask import Flask
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes import error_attributes as error_key
from opentelemetry.semconv.attributes import http_attributes as http_key
from opentelemetry.semconv.attributes import server_attributes as server_key
from opentelemetry.semconv.attributes import url_attributes as url_key
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from crossfade import __version__
from crossfade.serving.deployment import Arm
from crossfade.serving.messages import PredictBody
from crossfade.serving.predictor import Answer, PredictionFailed, Predictor

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 2.0
"""How long the end of a worker waits for a collector that may be dead."""

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
"""Other ones are `_OTHER`: a caller must not choose the names of spans."""


class TracedPredictor(Predictor):
    """Writes onto the request's span which arm answered, and for which experiment."""

    def answer(self, body: PredictBody) -> Answer:
        """Answer a request, as `Predictor` does."""
        span = trace.get_current_span()
        try:
            answer = super().answer(body)
        except PredictionFailed as failure:
            _describe(span, failure.arm)
            raise
        _describe(span, answer.arm)
        span.set_attributes(
            {
                "crossfade.model": answer.model,
                "crossfade.experiment_id": answer.experiment_id or "",
                "crossfade.request_id": answer.request_id,
                "crossfade.rows": len(answer.predictions),
            }
        )
        return answer


def _describe(span: Span, arm: Arm) -> None:
    span.set_attributes({"crossfade.variant": arm.variant, "crossfade.model_version": arm.version})


class TracedRequests:
    """WSGI middleware around the whole router: a span for each request, below the caller's `traceparent`.

    Parameters
    ----------
    app : Flask
        Its URL map names the routes.
    tracer : Tracer
        Makes the spans.
    """

    def __init__(self, app: Flask, tracer: Tracer) -> None:
        self._app: WSGIApplication = app.wsgi_app
        self._routes: MapAdapter = app.url_map.bind("")
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        method = environ["REQUEST_METHOD"] if environ["REQUEST_METHOD"] in _METHODS else "_OTHER"
        route = self._route(environ["PATH_INFO"], method)
        name = f"{'HTTP' if method == '_OTHER' else method} {route}".strip()
        sent = {
            key: environ[f"HTTP_{key.upper()}"] for key in self._propagator.fields if f"HTTP_{key.upper()}" in environ
        }
        asked = {**_asked(environ, method), **({http_key.HTTP_ROUTE: route} if route else {})}
        with self._tracer.start_as_current_span(
            name, self._propagator.extract(sent), SpanKind.SERVER, attributes=asked
        ) as span:

            def answered(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                _note_status(span, int(status[:3]))
                return start_response(status, headers, *more)

            return self._app(environ, answered)

    def _route(self, path: str, method: str) -> str:
        """Return the pattern that a path follows; '' where there is none: paths are too many for names."""
        if path == "/predict":
            return path
        try:
            rule, _ = self._routes.match(path, method, return_rule=True)
        except HTTPException:
            return ""
        return rule.rule


def _asked(environ: WSGIEnvironment, method: str) -> dict[str, str | int]:
    """Describe a request in OpenTelemetry's words; neither addresses of callers nor queries, which may hold secrets."""
    return {
        http_key.HTTP_REQUEST_METHOD: method,
        url_key.URL_PATH: environ["PATH_INFO"],
        url_key.URL_SCHEME: environ["wsgi.url_scheme"],
        server_key.SERVER_ADDRESS: environ["SERVER_NAME"],
        server_key.SERVER_PORT: int(environ["SERVER_PORT"]),
    }


def _note_status(span: Span, status: int) -> None:
    span.set_attribute(http_key.HTTP_RESPONSE_STATUS_CODE, status)
    if status >= 500:  # what a caller did wrong is no error of a server's span
        span.set_attribute(error_key.ERROR_TYPE, str(status))
        span.set_status(StatusCode.ERROR)


class _ToldOnce(SpanExporter):
    """Says once that a collector takes no spans, and once that it does again: the SDK's exporter does at every try."""

    def __init__(self, endpoint: str) -> None:
        for talkative in (OTLPSpanExporter.__module__, "opentelemetry.sdk._shared_internal"):
            logging.getLogger(talkative).setLevel(logging.CRITICAL)
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint)
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; what cannot be sent within the exporter's timeout is dropped."""
        result = self._exporter.export(spans)
        works = result is SpanExportResult.SUCCESS
        if works and not self._works:
            _log.info("%s takes spans again", self._endpoint)
        elif self._works and not works:
            _log.warning("%s takes no spans, they are dropped until it does: is the collector up?", self._endpoint)
        self._works = works
        return result

    def shutdown(self) -> None:
        """End a try that is under way."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # theirs has no annotation


def trace_requests(app: Flask, endpoint: str) -> None:
    """Send a span of each request to a collector, from threads of this very process.

    Parameters
    ----------
    app : Flask
        The router, complete.
    endpoint : str
        Base address of the collector's OTLP over HTTP.
    """
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_ToldOnce(f"{endpoint.rstrip('/')}/v1/traces")))
    Finalize(None, _end, (provider,), exitpriority=0)  # atexit's would not run in Granian's workers
    app.wsgi_app = TracedRequests(app, provider.get_tracer("crossfade", __version__))  # type: ignore[method-assign]


def _resource() -> Resource:
    """Say who we are; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES know better."""
    mine = Resource.create(
        {
            "service.name": "crossfade-router",
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    return mine.merge(OTELResourceDetector().detect())


def _end(provider: TracerProvider) -> None:
    """Send what is left, but wait for no dead collector."""
    sending = threading.Thread(target=provider.shutdown, name="crossfade-last-spans", daemon=True)
    sending.start()
    sending.join(_LAST_WORDS_SECONDS)
