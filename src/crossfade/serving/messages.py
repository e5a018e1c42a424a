"""The bodies the router takes, and how a body that is none of them is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from flask import Request
from msgspec import UNSET, UnsetType
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, UnsupportedMediaType

from crossfade.errors import CrossfadeError, InvalidInput

_log = logging.getLogger(__name__)

_MOST_DIGITS = 309

_BLOCK = 2**14
"""How many bytes of a stream are read at once."""

LabelIn = int | float | str


class PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /predict`."""

    features: dict[str, Any] | list[Any]
    """One row (an object by name, or a list in signature order), or a list of rows."""
    user_id: int | str | None = None
    label: LabelIn | list[LabelIn | None] | None = None
    """The true class where it is known; of a batch, one per row, null where unknown."""
    request_id: str | None = None


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """One label that comes later; `POST /feedback` takes one or a list."""

    request_id: str
    label: LabelIn


class ConfigBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /config`."""

    ab_split_b: float


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /ingest/batch`."""

    features: list[Any]
    """Rows, each an object by name or a list in signature order."""
    labels: list[Any]
    """The true class of each row."""
    batch_id: str | None = None
    """Names the batch, so that it can be sent again; without one the router makes one up."""


class LineBody(msgspec.Struct, forbid_unknown_fields=True):
    """One line of `POST /ingest/stream`: a row with its `label`, or rows with their `labels`."""

    features: dict[str, Any] | list[Any]
    label: Any = UNSET
    labels: list[Any] | UnsetType = UNSET
    batch_id: str | None = None
    """In place of the stream's."""


class Tensor(msgspec.Struct):
    """Values of one feature, shape [n] or [n, 1]; or of all in signature order, shape [n, features]."""

    name: str
    """The feature's; of a tensor with all features: any."""
    shape: list[int]
    datatype: str
    data: list[Any]
    """Flat in row-major order, or nested."""


class InferParameters(msgspec.Struct):
    """What the router reads of a request's parameters."""

    user_id: int | str | None = None


class WantedOutput(msgspec.Struct):
    """An output that the caller wants."""

    name: str


class InferBody(msgspec.Struct):
    """Body of `POST /v2/models/{model}/infer`."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: InferParameters | None = None
    outputs: list[WantedOutput] | None = None
    """`prediction` and `probability`; none named: both."""


class BrokenJson(CrossfadeError):
    """A text is no JSON."""


class StreamCut(CrossfadeError):
    """The connection broke before the end of a stream."""


Body = TypeVar("Body")


def parse(request: Request, shape: type[Body]) -> Body:
    """Read a request's JSON body.

    Raises
    ------
    UnsupportedMediaType
        It does not say that it is JSON.
    BrokenJson
        It is no JSON.
    InvalidInput
        It is JSON of another shape; the field is named.
    """
    if not request.is_json:
        sent = request.content_type or "none"
        raise UnsupportedMediaType(f"the content type is {sent[:100]}; allowed: application/json")
    return decode(read_body(request), shape)


def read_body(request: Request) -> bytes:
    """Read a body whole. Raises RequestEntityTooLarge: of one without a length, Flask would give the beginning."""
    limit = request.max_content_length
    if limit is None or request.content_length is not None:
        return request.get_data()
    request.max_content_length = limit + 1
    data = request.get_data()
    if len(data) > limit:
        raise RequestEntityTooLarge
    return data


def decode(data: bytes, shape: type[Body]) -> Body:
    """Read JSON of a shape.

    Raises
    ------
    BrokenJson
        It is no JSON.
    InvalidInput
        It is JSON of another shape; the field is named.
    """
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        if "out of range" not in str(error):
            raise _refusal(str(error)) from None
    except RecursionError:
        raise BrokenJson("is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.debug("%s", error)
    return _decode_leniently(data, shape)


def read_lines(request: Request, longest: int) -> Iterator[bytes | None]:
    """Read a body line by line as it arrives, however long it is.

    Yields
    ------
    bytes or None
        A line without its end; None for one of more than `longest` bytes, which is passed over.

    Raises
    ------
    StreamCut
        The connection broke; what came of the last line is dropped.
    """
    line, too_long, received = b"", False, 0
    while block := _read_block(request):
        received += len(block)
        *ends, start = block.split(b"\n")
        for end in ends:
            yield None if too_long or len(line) + len(end) > longest else line + end
            line, too_long = b"", False
        too_long = too_long or len(line) + len(start) > longest
        line = b"" if too_long else line + start
    if received < (request.content_length or 0):
        raise StreamCut
    if line or too_long:
        yield None if too_long else line


def _read_block(request: Request) -> bytes:
    try:
        return request.stream.read(_BLOCK)
    except (OSError, ClientDisconnected) as error:
        raise StreamCut from error


def _decode_leniently(data: bytes, shape: type[Body]) -> Body:
    """Read JSON as Python writes it, with NaN, Infinity and any number, so that a refusal can name the field."""
    try:
        return msgspec.convert(json.loads(data, parse_int=_integer), type=shape)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except RecursionError:
        raise BrokenJson("is nested too deeply") from None
    except ValueError as error:
        raise BrokenJson(f"is not JSON: {str(error)[:200]}") from None


def _integer(digits: str) -> int | float:
    """Read a whole number; one beyond any float is infinite, for Python refuses to read thousands of digits."""
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _refusal(message: str) -> InvalidInput:
    """Turn ``Expected `int`, got `array` - at `$.user_id``` into a field and a problem."""
    problem, _, place = message.partition(" - at `")
    field = place.rstrip("`").removeprefix("$").removeprefix(".")
    return InvalidInput(field or "body", problem[:1].lower() + problem[1:])
