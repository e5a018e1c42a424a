"""The calls that take labelled rows in: one batch, or a stream of any length."""

from __future__ import annotations

import sys
from dataclasses import asdict

from flask import Blueprint, Response, current_app, jsonify, request
from werkzeug.exceptions import UnsupportedMediaType

from crossfade.serving.context import guarded, reply, router
from crossfade.serving.messages import BatchBody, parse, read_lines

_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")

api = Blueprint("ingest", __name__, url_prefix="/ingest")


@api.post("/batch")
@guarded("api_token")
def batch() -> Response:
    """Store all rows of a batch, or none; sent again, it is stored once."""
    return jsonify(asdict(router().ingestor.batch(parse(request, BatchBody))))


@api.post("/stream")
@guarded("api_token")
def stream() -> Response:
    """Store the good rows of NDJSON as they come; sent again, each is stored once."""
    if request.mimetype not in _NDJSON:
        sent = request.content_type or "none"
        raise UnsupportedMediaType(f"the content type is {sent[:100]}; allowed: {', '.join(_NDJSON)}")
    request.max_content_length = sys.maxsize  # a stream is limited line by line
    lines = read_lines(request, longest=current_app.config["MAX_CONTENT_LENGTH"])
    batch_id = request.args.get("batch_id", request.headers.get("X-Batch-Id"))
    report = router().ingestor.stream(lines, batch_id)
    if report.rows == report.rejected:
        told = {"error": "invalid_input", "detail": "every row was refused; `problems` says why"}
        return reply(422, told | asdict(report))
    return jsonify(asdict(report))


@api.get("/stats")
@guarded("api_token")
def stats() -> Response:
    """Show what is stored for the model that this router serves."""
    return jsonify(asdict(router().ingestor.stats()))
