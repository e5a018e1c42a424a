"""The bodies the router takes, and how a body that is none of them is refused."""

from __future__ import annotations

import json
import logging
from typing import Any, TypeVar

import msgspec
from flask import Request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from crossfade.errors import InvalidInput

_log = logging.getLogger(__name__)

_MOST_DIGITS = 309

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


Body = TypeVar("Body")


def parse(request: Request, shape: type[Body]) -> Body:
    """Read a request's JSON body.

    Raises
    ------
    UnsupportedMediaType
        It does not say that it is JSON.
    BadRequest
        It is no JSON.
    InvalidInput
        It is JSON of another shape; the field is named.
    """
    if not request.is_json:
        sent = request.content_type or "none"
        raise UnsupportedMediaType(f"the content type is {sent[:100]}; allowed: application/json")
    data = request.get_data()
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        if "out of range" not in str(error):
            raise _refusal(str(error)) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.debug("%s", error)
    return _parse_leniently(data, shape)


def _parse_leniently(data: bytes, shape: type[Body]) -> Body:
    """Read JSON as Python writes it, with NaN, Infinity and any number, so that a refusal can name the field."""
    try:
        return msgspec.convert(json.loads(data, parse_int=_integer), type=shape)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from None


def _integer(digits: str) -> int | float:
    """Read a whole number; one beyond any float is infinite, for Python refuses to read thousands of digits."""
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _refusal(message: str) -> InvalidInput:
    """Turn ``Expected `int`, got `array` - at `$.user_id``` into a field and a problem."""
    problem, _, place = message.partition(" - at `")
    field = place.rstrip("`").removeprefix("$").removeprefix(".")
    return InvalidInput(field or "body", problem[:1].lower() + problem[1:])
