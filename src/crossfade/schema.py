"""The features a model takes: their names and order, and how one row from outside becomes numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossfade.errors import InvalidInput

LARGEST = 3.4e38
"""Largest feature: trees compare in 32 bits, and scikit-learn's raise above it."""


@dataclass(frozen=True)
class FeatureSchema:
    """Names of the numeric features, in the order of the model's signature."""

    names: tuple[str, ...]

    def parse(self, features: object, field: str = "features") -> list[float]:
        """Check one row and put it in signature order.

        Parameters
        ----------
        features : object
            A mapping by name, or a sequence in signature order.
        field : str
            Where the row stands in the request; errors name it.

        Raises
        ------
        InvalidInput
            A feature is missing, unknown, not a number, NaN or infinite; or the list has another length.

        Examples
        --------
        >>> FeatureSchema(("height", "width")).parse({"width": 2, "height": 1})
        [1.0, 2.0]
        """
        if isinstance(features, Mapping):
            return self._from_mapping(features, field)
        if isinstance(features, Sequence) and not isinstance(features, (str, bytes)):
            return self._from_sequence(features, field)
        raise InvalidInput(field, f"is {_kind(features)}; allowed: an object by feature name, or a list of numbers")

    def _from_mapping(self, features: Mapping[str, object], field: str) -> list[float]:
        for name in features:
            if name not in self.names:
                raise InvalidInput(f"{field}.{_shown(name)}", f"is no feature of this model; it takes {self._listed()}")
        for name in self.names:
            if name not in features:
                raise InvalidInput(f"{field}.{name}", f"is missing; the model takes {self._listed()}")
        return [_number(features[name], f"{field}.{name}") for name in self.names]

    def _from_sequence(self, features: Sequence[object], field: str) -> list[float]:
        if len(features) != len(self.names):
            raise InvalidInput(
                field, f"has {len(features)} values; the model takes {len(self.names)}, in this order: {self._listed()}"
            )
        return [_number(value, f"{field}.{name}") for name, value in zip(self.names, features, strict=True)]

    def _listed(self) -> str:
        return ", ".join(self.names[:20]) + (f" and {len(self.names) - 20} more" if len(self.names) > 20 else "")


def label_text(label: object, field: str = "label") -> str:
    """Write a class label as the log and the registry do: 1, 1.0 and "1" are the same class.

    Raises
    ------
    InvalidInput
        The label is neither text nor a whole number, is empty, too long, or holds control characters.

    Examples
    --------
    >>> label_text(2), label_text(2.0), label_text("setosa")
    ('2', '2', 'setosa')
    """
    if isinstance(label, bool):
        return str(int(label))
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int):
        if abs(label) >= 2**63:
            raise InvalidInput(field, "is too large; allowed: a class label, as text or as a whole number of 64 bits")
        return str(label)
    if isinstance(label, str):
        return plain_text(label, field)
    raise InvalidInput(field, f"is {_kind(label)}; allowed: a class label, as text or as a whole number")


def plain_text(text: str, field: str, limit: int = 256) -> str:
    """Check text that will stand in one cell of one line of the log.

    Raises
    ------
    InvalidInput
        The text is empty, longer than `limit` characters, or holds characters that cannot be printed.
    """
    if not text or len(text) > limit:
        raise InvalidInput(field, f"has {len(text)} characters; allowed: 1 to {limit}")
    if not text.isprintable():
        raise InvalidInput(field, "holds control characters; allowed: printable text")
    return text


def _number(value: object, field: str) -> float:
    if value is None:
        raise InvalidInput(field, "is null; allowed: a number, as training had no missing values here")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput(field, f"is {_kind(value)}; allowed: a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(field, f"is {value}; allowed: a finite number")
    if not -LARGEST <= value <= LARGEST:
        raise InvalidInput(field, f"is too large; allowed: a number from {-LARGEST:.1e} to {LARGEST:.1e}")
    return float(value)


def _kind(value: object) -> str:
    """Name a value as JSON would, with what came where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}" if abs(value) < LARGEST else "the number (huge)"
    if isinstance(value, str):
        return f"the text {_shown(value)!r}"
    return "an object" if isinstance(value, Mapping) else "a list"


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
