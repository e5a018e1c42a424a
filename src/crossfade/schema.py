"""The features a model takes: their names, kinds and order, and how rows from outside become its input."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crossfade.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 3.4e38
"""Largest feature: trees compare in 32 bits, and scikit-learn's raise above it."""

LONGEST_CATEGORY = 256
"""Characters of the longest category; a text above it is free text."""

WHOLE_LABEL = re.compile(r"-?[0-9]{1,18}")
"""Text of a label that can stand in a column of whole numbers."""

_FLOATS = {float}

Kind = Literal["numeric", "categorical", "boolean"]

Value = float | str | bool | None
"""One feature of one row; None is missing."""

_BOOLEANS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


@dataclass(frozen=True)
class Feature:
    """One feature of a model."""

    name: str
    kind: Kind = "numeric"
    nullable: bool = False
    """Whether the rows it was learnt from had missing values: only then may a request send null."""


@dataclass(frozen=True)
class FeatureSchema:
    """The features, in the order of the model's signature."""

    features: tuple[Feature, ...]

    @classmethod
    def of_numbers(cls, *names: str) -> FeatureSchema:
        """Make a schema of numeric features that are never missing."""
        return cls(tuple(Feature(name) for name in names))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def _takes_numbers(self) -> bool:
        return {feature.kind for feature in self.features} == {"numeric"}

    def of_kind(self, *kinds: Kind) -> list[str]:
        """Names of the features of these kinds, in order."""
        return [feature.name for feature in self.features if feature.kind in kinds]

    @property
    def digest(self) -> str:
        """SHA-256 over names and kinds: the same for schemas between which rows can be exchanged."""
        return hashlib.sha256(repr(sorted(self.kinds.items())).encode()).hexdigest()

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kind of each feature by name."""
        return {feature.name: feature.kind for feature in self.features}

    def parse(self, features: object, field: str = "features") -> list[Value]:
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
            A feature is missing, unknown, of another kind, null where training never had it so, NaN or infinite; or
            the list has another length.

        Examples
        --------
        >>> schema = FeatureSchema((Feature("height"), Feature("colour", "categorical", nullable=True)))
        >>> schema.parse({"colour": None, "height": 1})
        [1.0, None]
        """
        if isinstance(features, (dict, Mapping)):  # the first is told apart at once
            return self._from_mapping(features, field)
        if isinstance(features, (list, Sequence)) and not isinstance(features, (str, bytes)):
            return self._from_sequence(features, field)
        raise InvalidInput(field, f"is {_kind(features)}; allowed: an object by feature name, or a list of values")

    def frame_of(self, rows: Sequence[Sequence[Value]]) -> pd.DataFrame:
        """Turn parsed rows, shape (n, features), into the data frame that models take.

        Numeric and boolean features are float64 (a boolean is 0 or 1), categorical ones text; missing is NaN.
        """
        import pandas as pd  # here and below: a router of compiled models does without

        if not self.of_kind("categorical"):
            return pd.DataFrame(np.asarray(list(rows), dtype=np.float64), columns=list(self.names))
        columns = zip(self.features, zip(*rows, strict=True), strict=True)
        return pd.DataFrame(
            {
                feature.name: np.array([np.nan if value is None else value for value in values], dtype=object)
                if feature.kind == "categorical"
                else np.array(values, dtype=np.float64)
                for feature, values in columns
            }
        )

    def rows_of(self, frame: pd.DataFrame) -> list[list[Value]]:
        """Turn a frame as `conform` makes it back into rows, as a caller would send them."""
        sent = frame[list(self.names)].astype(object)
        for name in self.of_kind("boolean"):
            sent[name] = sent[name].map(bool, na_action="ignore")
        rows: list[list[Value]] = sent.where(sent.notna(), None).to_numpy(dtype=object).tolist()
        return rows

    def conform(self, table: pd.DataFrame) -> pd.DataFrame:
        """Take the features out of a table of any types, as the data frame that models take.

        A column the table lacks, and a value that cannot be read as its feature's kind, is missing.
        """
        import pandas as pd

        columns = {
            feature.name: _typed(table[feature.name], feature.kind)
            if feature.name in table
            else pd.Series(np.nan, table.index, dtype=object if feature.kind == "categorical" else "float64")
            for feature in self.features
        }
        return pd.DataFrame(columns, index=table.index)

    def example(self) -> list[Value]:
        """Return a row that the model takes, in signature order, to try it with."""
        some: dict[Kind, Value] = {"numeric": 0.0, "categorical": "a", "boolean": False}
        return [some[feature.kind] for feature in self.features]

    def with_nulls_of(self, frame: pd.DataFrame) -> FeatureSchema:
        """Say anew which features may be null: those of which these training rows lack a value."""
        return FeatureSchema(
            tuple(Feature(f.name, f.kind, nullable=bool(frame[f.name].isna().any())) for f in self.features)
        )

    def _from_mapping(self, features: Mapping[str, object], field: str) -> list[Value]:
        try:
            if len(features) == len(self.names):
                return self._checked([features[name] for name in self.names], field)
        except KeyError:
            pass
        self._refuse_names(features, field)
        raise AssertionError("a name is unknown or missing, or there would be as many")

    def _refuse_names(self, features: Mapping[str, object], field: str) -> None:
        for name in features:
            if name not in self.names:
                raise InvalidInput(f"{field}.{_shown(name)}", f"is no feature of this model; it takes {self._listed()}")
        for name in self.names:
            if name not in features:
                raise InvalidInput(f"{field}.{name}", f"is missing; the model takes {self._listed()}")

    def _from_sequence(self, features: Sequence[object], field: str) -> list[Value]:
        if len(features) != len(self.features):
            raise InvalidInput(
                field,
                f"has {len(features)} values; the model takes {len(self.features)}, in this order: {self._listed()}",
            )
        return self._checked(features, field)

    def _checked(self, values: Sequence[Any], field: str) -> list[Value]:
        """Check values in signature order; what most are, numbers that are no whole ones, at once."""
        if self._takes_numbers and set(map(type, values)) == _FLOATS and sum(map(abs, values)) <= LARGEST:
            return list(values)
        return [
            value
            if type(value) is float and feature.kind == "numeric" and -LARGEST <= value <= LARGEST
            else _value(value, feature, field)
            for feature, value in zip(self.features, values, strict=True)
        ]

    def _listed(self) -> str:
        shown, more = self.names[:20], len(self.names) - 20
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def lost(raw: pd.Series[Any], conformed: pd.Series[Any]) -> pd.Series[bool]:
    """Tell which values of a column are there, but could not be read as their feature's kind."""
    return raw.notna() & conformed.isna()


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


def category_text(value: object) -> str:
    """Write a category: a whole number loses its `.0`, which it has only because its column lacks a value elsewhere."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _value(value: object, feature: Feature, field: str) -> Value:
    place = f"{field}.{feature.name}"
    if value is None:
        if feature.nullable:
            return None
        wanted = {"numeric": "a number", "categorical": "text", "boolean": "true or false"}[feature.kind]
        raise InvalidInput(place, f"is null; allowed: {wanted}, as training had no missing values here")
    if feature.kind == "numeric":
        return _number(value, place)
    if feature.kind == "boolean":
        if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
            return bool(value)
        raise InvalidInput(place, f"is {_kind(value)}; allowed: true or false")
    if isinstance(value, str):
        return check_category(value, place)
    raise InvalidInput(place, f"is {_kind(value)}; allowed: text, the name of a category")


def check_category(text: str, field: str) -> str:
    """Check the name of a category. Raises InvalidInput where it is empty, too long, or no text."""
    if not 1 <= len(text) <= LONGEST_CATEGORY:
        raise InvalidInput(field, f"has {len(text)} characters; allowed: 1 to {LONGEST_CATEGORY}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidInput(field, "holds half a character (a lone surrogate); allowed: text")
    return text


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput(field, f"is {_kind(value)}; allowed: a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(field, f"is {value}; allowed: a finite number")
    if not -LARGEST <= value <= LARGEST:
        raise InvalidInput(field, f"is too large; allowed: a number from {-LARGEST:.1e} to {LARGEST:.1e}")
    return float(value)


def _typed(column: pd.Series[Any], kind: Kind) -> pd.Series[Any]:
    """Read a column as a kind; what cannot be read is NaN."""
    import pandas as pd
    from pandas.api.types import is_datetime64_any_dtype, is_timedelta64_dtype

    if kind == "categorical":
        present = column.notna()
        text = column.astype(object).where(present).map(category_text, na_action="ignore")
        return text.where(present & (text != ""), np.nan).astype(object)
    if kind == "boolean":
        words = column.astype(object).map(lambda value: str(value).lower(), na_action="ignore")
        return words.map(_BOOLEANS).astype("float64")
    if is_datetime64_any_dtype(column) or is_timedelta64_dtype(column):  # pandas would count their nanoseconds
        return pd.Series(np.nan, column.index, dtype="float64")
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    return numbers.where(numbers.abs() <= LARGEST)


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
    if isinstance(value, (Mapping, list, tuple)):
        return "an object" if isinstance(value, Mapping) else "a list"
    return f"of type {type(value).__name__}"


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
