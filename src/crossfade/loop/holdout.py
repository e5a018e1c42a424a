"""Which labelled rows a retraining learns, and which judge what it has learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from sklearn.model_selection import train_test_split

from crossfade.errors import DataError
from crossfade.loop.incumbent import KnownRows
from crossfade.loop.live import REQUEST_ID
from crossfade.schema import WHOLE_LABEL, FeatureSchema

_MIN_NEW_CLASS_ROWS = 10
"""Fewer rows of a class that was never seen before are taken for mistakes."""

_FEWEST_ROWS = 20

_DRAWN_SHARE = 0.3
"""Share of rows that is held out at random, where none are both new and enough."""


@dataclass(frozen=True)
class TrainingRows:
    """Labelled rows, shared out for one retraining; each frame holds the features and the label."""

    train: pd.DataFrame
    holdout: pd.DataFrame
    """Judges the candidate; the newest rows where they have an order."""
    ordered: bool
    """Whether the rows have an order of time, in which `holdout` follows `train`."""
    snapshot: pd.DataFrame
    """All rows, oldest first, with the `request_id` of those that came from traffic ('' for the others)."""
    schema: FeatureSchema
    """The features; null is allowed where the snapshot lacks a value."""
    new: int
    """Rows that no version has learnt before."""
    left_out: int
    """Live rows whose label is of another kind than the known ones, or of a new class with too few rows to learn."""


@dataclass(frozen=True)
class SharingRule:
    """How rows are shared out."""

    min_new: int = 100
    """With fewer new rows than this, rows are held out at random from all of them."""
    holdout_share: float = 0.5
    """Newest share of the new rows that judges the candidate."""
    holdout_rows: int = 500
    """Most rows that judge."""
    seed: int = 42
    """Of a random draw."""


def share_out(known: KnownRows, labeled: pd.DataFrame, target: str, rule: SharingRule) -> TrainingRows:
    """Join what prod learnt with what was seen since, and set rows aside for the champion gate.

    New rows come from traffic and have an order of time: the newest of them judge the candidate, for that is what it
    will meet, and the champion has not learnt them either.

    Parameters
    ----------
    known : KnownRows
        The snapshot of prod's version, or the dataset.
    labeled : DataFrame
        Labelled live rows, oldest first, labels as text; those that `known` holds already are dropped.
    target : str
        Name of the label column.
    rule : SharingRule
        How many rows go where.
    """
    readable, left_out = unlearnt(known.frame, labeled, target)
    corrected = _with_corrections(known.frame, labeled, target)
    snapshot = pd.concat([corrected, readable[corrected.columns]], ignore_index=True)
    if len(snapshot) < _FEWEST_ROWS:
        raise DataError(f"{len(snapshot)} labelled rows are too few to learn and to judge; give {_FEWEST_ROWS} or more")
    rows, new = snapshot.drop(columns=REQUEST_ID), len(readable)
    unlearnt_rows = new if new >= rule.min_new else len(rows) if known.ordered and not new else 0
    held = min(rule.holdout_rows, round(unlearnt_rows * rule.holdout_share))
    if held:
        train, holdout = _with_every_class(rows.iloc[:-held], rows.iloc[-held:], target)
    else:
        train, holdout = _drawn(rows, target, rule.seed)
    schema = known.schema.with_nulls_of(snapshot)
    return TrainingRows(train, holdout, held > 0, snapshot, schema, new, left_out)


def unlearnt(known: pd.DataFrame, labeled: pd.DataFrame, target: str) -> tuple[pd.DataFrame, int]:
    """Return the labelled rows that `known` does not hold and that can be learnt, and how many cannot."""
    new = labeled[~labeled[REQUEST_ID].isin(known[REQUEST_ID])]
    readable = _learnable(_in_kind_of(new, known[target]), known[target])
    return readable, len(new) - len(readable)


def _with_corrections(known: pd.DataFrame, labeled: pd.DataFrame, target: str) -> pd.DataFrame:
    """Give rows that were learnt the label that they have now: a later one may have corrected it."""
    again = _in_kind_of(labeled[labeled[REQUEST_ID].isin(known[REQUEST_ID])], known[target])
    now = known[REQUEST_ID].map(again.drop_duplicates(REQUEST_ID, keep="last").set_index(REQUEST_ID)[target])
    return known.assign(**{target: known[target].where(now.isna(), now).astype(known[target].dtype)})


def _drawn(rows: pd.DataFrame, target: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold rows out at random, each class in its share where there are enough of it."""
    labels = rows[target]
    enough = labels.value_counts().min() > 1 and round(len(rows) * _DRAWN_SHARE) >= labels.nunique()
    train, holdout = train_test_split(
        rows, test_size=_DRAWN_SHARE, random_state=seed, stratify=labels if enough else None
    )
    return train, holdout


def _in_kind_of(new: pd.DataFrame, labels: pd.Series[Any]) -> pd.DataFrame:
    """Give the labels, text so far, the kind of the known ones; rows whose label cannot have it are left out."""
    if not pd.api.types.is_integer_dtype(labels):
        return new
    whole = new[new[labels.name].astype(str).str.fullmatch(WHOLE_LABEL.pattern)]
    return whole.astype({labels.name: "int64"})


def _learnable(new: pd.DataFrame, labels: pd.Series[Any]) -> pd.DataFrame:
    """Leave out classes that are new and rare: one mistyped label must not stop every retraining."""
    counts = new[labels.name].value_counts()
    rare = counts[(counts < _MIN_NEW_CLASS_ROWS) & ~counts.index.isin(labels)]
    return new[~new[labels.name].isin(rare.index)]


def _with_every_class(train: pd.DataFrame, holdout: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let a class that almost only the newest rows hold be learnt from the older half of its rows."""
    counts = train[target].value_counts()
    unknown = holdout[~holdout[target].isin(counts.index[counts > 1])]
    older = unknown.groupby(target).cumcount() < unknown.groupby(target)[target].transform("size") / 2
    moved = unknown[older]
    return pd.concat([train, moved]), holdout.drop(index=moved.index)
