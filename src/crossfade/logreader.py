"""The request log as the learning loop reads it: slice by slice, with what is asked for only, late labels joined."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crossfade.logchoice import Choice, keep
from crossfade.requestlog import COLUMNS, LogSlice, RequestLog

_TYPES = {
    "ts_utc": pa.timestamp("ns", "UTC"),
    **dict.fromkeys(("status", "ab_split_b", "probability", "latency_ms"), pa.float64()),
}
_REPEATED = {"user_id", "experiment_id", "variant", "alias", "model", "model_version"}
_ALWAYS = ("ts_utc", "request_id", "status", "label")


@dataclass(frozen=True)
class LogContents:
    """What a log holds, late labels joined."""

    rows: pd.DataFrame
    """One line per `LogRow`, oldest first; `ts_utc` as UTC timestamps, empty labels and predictions as missing, texts
    that occur again and again as categories (a million rows are a few seconds faster, and a fifth of the memory)."""
    set_aside: int
    """Lines that are no rows: torn by a crash or damaged. They are left out and counted."""

    def of_experiment(self, experiment_id: str) -> LogContents:
        """Return the rows of one experiment only."""
        return replace(self, rows=where(self.rows, self.rows["experiment_id"] == experiment_id))

    def known(self) -> pd.Series[bool]:
        """Tell which rows were answered and have a label; of a request id that was sent again, the newest only."""
        known = (self.rows["status"] == 200) & self.rows["label"].notna()
        ids = self.rows["request_id"]
        if not ids.is_unique:  # quickly found out, and rare
            known[known] = ~ids[known].duplicated(keep="last")
        return known

    def labeled(self) -> pd.DataFrame:
        """Take the rows whose label is `known`."""
        return where(self.rows, self.known())


def read_log(
    log: RequestLog, columns: Sequence[str] = (), labeled: bool = False, without: Collection[str] = (), **where: str
) -> LogContents:
    """Read what was stored so far.

    Parameters
    ----------
    log : RequestLog
        The log.
    columns : sequence of str
        The columns that are wanted, beside those that say when, which request, how it went and what was right;
        none: all of them.
    labeled : bool
        Take only rows that were answered and whose label is known, one per request id (the newest).
    without : collection of str
        Request ids whose rows are left out, slice by slice: what is known of them already is not kept in memory.
    **where : str
        Take only rows with these values, such as ``model="IrisClassifier"``.

    Raises
    ------
    LogUnavailable
        The log cannot be read.
    """
    wanted = [name for name in COLUMNS if not columns or name in columns or name in _ALWAYS]
    choice = Choice.of(**where)
    joined = log.joined_slices(choice, labeled)
    late, torn = _late_labels(log.label_slices() if joined is None else ())
    labeled_late, left_out = frozenset(late.index), frozenset(without)

    def take(part: LogSlice) -> tuple[pa.Table, int]:
        table, set_aside = part.read(wanted)
        tests = []
        if labeled:
            tests.append(pc.equal(table["status"], "200"))
            tests.append(pc.or_(pc.not_equal(table["label"], ""), _among(table, labeled_late)))
        if left_out:
            tests.append(pc.invert(_among(table, left_out)))
        return (keep(table, reduce(pc.and_, tests)) if tests else table), set_aside

    tables = [pa.table({name: pa.array([], pa.string()) for name in wanted})]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Arrow reads and filters without the interpreter's lock
        for table, set_aside in pool.map(take, log.slices(choice) if joined is None else joined):
            tables.append(table)
            torn += set_aside
    contents = _typed(pa.concat_tables(tables), late, torn)
    return replace(contents, rows=contents.labeled()) if labeled else contents


def _late_labels(parts: Sequence[LogSlice]) -> tuple[pd.Series[Any], int]:
    """Return the last late label of each request, and how many lines were set aside."""
    tables, torn = [pa.table({name: pa.array([], pa.string()) for name in ("request_id", "label")})], 0
    for part in parts:
        table, set_aside = part.read(("request_id", "label"))
        tables.append(table)
        torn += set_aside
    labels = pa.concat_tables(tables).to_pandas().drop_duplicates("request_id", keep="last")
    return labels.set_index("request_id")["label"], torn


def _typed(table: pa.Table, late: pd.Series[Any], set_aside: int) -> LogContents:
    """Give the columns their types and put late labels in place of those that came with the request."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name in columns.keys() & _TYPES.keys():
        columns[name] = _cast(columns[name], _TYPES[name])
    answers = [name for name in ("label", "prediction") if name in columns]
    for name in answers:
        columns[name] = pc.if_else(pc.equal(columns[name], ""), None, columns[name])
    if len(late):
        place = pc.index_in(columns["request_id"], pa.array(late.index, pa.string()))
        columns["label"] = pc.coalesce(pc.take(pa.array(late, pa.string()), place), columns["label"])
    whole = pc.and_(pc.is_valid(columns["ts_utc"]), pc.is_valid(columns["status"]))
    typed = keep(pa.table(columns), whole)
    columns = dict(zip(typed.column_names, typed.columns, strict=True))
    columns["status"] = columns["status"].cast(pa.int64(), safe=False)
    together = pa.chunked_array([chunk for name in answers for chunk in typed[name].chunks], pa.string())
    coded = together.dictionary_encode()  # one set of categories, so that a prediction can be compared with its label
    columns |= {name: coded.slice(place * len(typed), len(typed)) for place, name in enumerate(answers)}
    columns |= {name: columns[name].dictionary_encode() for name in columns.keys() & _REPEATED}
    rows = pa.table(columns).to_pandas(types_mapper={pa.string(): pd.ArrowDtype(pa.string())}.get)
    return LogContents(rows, set_aside + table.num_rows - len(rows))


def _among(table: pa.Table, ids: frozenset[str]) -> pa.Array:
    """Tell whose request id is among some; `pc.is_in` would hash all of them anew for each slice."""
    if not ids:
        return pa.repeat(False, table.num_rows)
    return pa.array([name in ids for name in table["request_id"].to_pylist()], pa.bool_())


def _cast(texts: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """Read texts as numbers or times; an empty one is missing, and so is what cannot be read."""
    present = pc.if_else(pc.equal(texts, ""), None, texts)
    try:
        return pc.cast(present, kind)
    except pa.ArrowInvalid:  # somebody edited the log; pandas is slower, and takes out what it cannot read
        column = present.to_pandas()
        if pa.types.is_timestamp(kind):
            read = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
        else:
            read = pd.to_numeric(column, errors="coerce")
        return pa.array(read, kind, from_pandas=True)


def units(rows: pd.DataFrame) -> pd.Series[int]:
    """Give what the split hashed a number: the user, or the request without one (a batch, of one time, is one)."""
    number, users = pd.factorize(rows["user_id"])
    nameless = (rows["user_id"] == "").to_numpy()
    if nameless.any():
        these = rows[nameless]
        request = (
            these["request_id"].astype(object).str.replace(r"\.\d+$", "", regex=True)
            + " "
            + these["ts_utc"].astype(str)
        )
        number[nameless] = len(users) + pd.factorize(request)[0]
    return pd.Series(number, rows.index)


def where(rows: pd.DataFrame, test: pd.Series[bool]) -> pd.DataFrame:
    """Take some rows, without a copy where that is all of them."""
    return rows if test.all() else rows[test]
