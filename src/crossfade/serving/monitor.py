"""A look at the newest answers of all workers, read off the end of the request log. Drift is decided elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from crossfade.errors import InvalidInput
from crossfade.newestrows import Newest

MOST_ROWS = 10_000
"""Of a window: reading them takes a tenth of a second, in which a worker answers more slowly."""

_TOP = 10
"""Categories of a feature that are named."""

_read_features = msgspec.json.Decoder(dict[str, float | str | bool | None]).decode


@dataclass(frozen=True)
class FeatureWindow:
    """What a feature looked like in the answered rows of a window."""

    kind: str
    """`numeric` or `categorical` (true/false too); `empty` where every value is missing."""
    missing: int
    mean: float | None = None
    """This and the next two: of a numeric feature."""
    min: float | None = None
    max: float | None = None
    top: dict[str, int] | None = None
    """Of a categorical feature: its ten most frequent categories, and how often each came."""
    distinct: int | None = None
    """How many categories there were."""


@dataclass(frozen=True)
class ArmWindow:
    """What an arm did in a window."""

    rows: int
    failed: int
    """Rows to which the model raised."""
    model_versions: dict[str, int]
    predictions: dict[str, int]
    labeled: int
    label_share: float | None
    """Of the answered rows; None when there are none."""
    accuracy: float | None
    """Share of the labelled rows that were answered rightly; None when there are none."""


@dataclass(frozen=True)
class Window:
    """The newest rows of the log, a batch being a row per item."""

    rows: int
    """How many there are; fewer than were asked for where the log holds no more."""
    asked: int
    since_utc: str | None
    until_utc: str | None
    set_aside: int
    """Lines among them that are no rows: torn by a crash, or being written at this moment."""
    labeled: int
    label_share: float | None
    features: dict[str, FeatureWindow]
    arms: dict[str, ArmWindow]


@dataclass(frozen=True)
class _Row:
    """A line of the log, read."""

    ts_utc: str
    variant: str
    model_version: str
    features: dict[str, float | str | bool | None]
    label: str
    """Empty while it is not known."""
    prediction: str
    answered: bool


class Monitor:
    """Looks at the end of the log.

    Parameters
    ----------
    newest : Newest
        The end of the log.
    """

    def __init__(self, newest: Newest) -> None:
        self._newest = newest

    def window(self, asked: str) -> Window:
        """Look at the newest rows.

        Parameters
        ----------
        asked : str
            How many rows, as a caller wrote it.

        Raises
        ------
        InvalidInput
            It is no number from 1 to 10,000.
        LogUnavailable
            The log cannot be read.
        """
        wanted = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 9 else 0
        if not 1 <= wanted <= MOST_ROWS:
            raise InvalidInput("rows", f"is {asked[:20]!r}; allowed: a whole number from 1 to {MOST_ROWS}")
        rows, set_aside = self._rows(wanted)
        answered = [row for row in rows if row.answered]
        labeled = sum(1 for row in answered if row.label)
        return Window(
            rows=len(rows),
            asked=wanted,
            since_utc=rows[0].ts_utc if rows else None,
            until_utc=rows[-1].ts_utc if rows else None,
            set_aside=set_aside,
            labeled=labeled,
            label_share=_share(labeled, len(answered)),
            features=_features(answered),
            arms={arm: _arm([row for row in rows if row.variant == arm]) for arm in sorted({r.variant for r in rows})},
        )

    def _rows(self, wanted: int) -> tuple[list[_Row], int]:
        """Read the newest rows, late labels joined, and count the lines that are none."""
        found, torn = self._newest.rows(wanted)
        late = self._newest.labels([row["request_id"] for row in found])
        rows = [read for row in found if (read := _read(row, late)) is not None]
        return rows, len(found) - len(rows) + torn


def _read(row: Mapping[str, str], late: Mapping[str, str]) -> _Row | None:
    try:
        features = _read_features(row["features_json"])
    except (msgspec.DecodeError, ValueError):
        return None
    label = late.get(row["request_id"], row["label"])
    answered = row["status"] == "200"
    return _Row(row["ts_utc"], row["variant"], row["model_version"], features, label, row["prediction"], answered)


def _arm(rows: Sequence[_Row]) -> ArmWindow:
    answered = [row for row in rows if row.answered]
    labeled = [row for row in answered if row.label]
    return ArmWindow(
        rows=len(rows),
        failed=len(rows) - len(answered),
        model_versions=_counts(row.model_version for row in rows),
        predictions=_counts(row.prediction for row in answered),
        labeled=len(labeled),
        label_share=_share(len(labeled), len(answered)),
        accuracy=_share(sum(1 for row in labeled if row.label == row.prediction), len(labeled)),
    )


def _features(rows: Sequence[_Row]) -> dict[str, FeatureWindow]:
    names = dict.fromkeys(name for row in rows for name in row.features)
    return {name: _feature([row.features.get(name) for row in rows]) for name in names}


def _feature(values: Sequence[float | str | bool | None]) -> FeatureWindow:
    present = [value for value in values if value is not None]
    missing = len(values) - len(present)
    numbers = [value for value in present if isinstance(value, float)]
    if numbers:
        mean = sum(numbers) / len(numbers)
        return FeatureWindow("numeric", missing, mean, min(numbers), max(numbers))
    if not present:
        return FeatureWindow("empty", missing)
    texts = [value if isinstance(value, str) else str(value).lower() for value in present]
    return FeatureWindow("categorical", missing, top=_counts(texts), distinct=len(set(texts)))


def _counts(values: Iterable[str]) -> dict[str, int]:
    """Count values, the most frequent first."""
    return dict(Counter(values).most_common(_TOP))


def _share(some: int, of: int) -> float | None:
    return some / of if of else None
