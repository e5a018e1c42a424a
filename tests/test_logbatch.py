"""A batch in the log: its lines say what its rows say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.logbatch import LogBatch
from crossfade.logreader import read_log
from crossfade.manyrows import ManyRows
from crossfade.memorylog import MemoryRequestLog
from crossfade.requestlog import COLUMNS, CsvRequestLog, LogRow

COMMON = LogRow(
    "2026-01-02T03:04:05.000006+00:00", "r", "u", "m-v1-v2", "A", "prod", "m", "1", 0.5, "", "", "", None, 1.25, 200
)

_TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=8) | st.sampled_from(
    ["a,b", '"', "%s", "%", '""', "null"]
)
_FEATURE = st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.booleans()


@st.composite
def _batches(draw: st.DrawFn) -> LogBatch:
    rows, names = draw(st.integers(1, 4)), draw(st.lists(_TEXT, min_size=1, max_size=3, unique=True))
    columns = [
        draw(st.lists(draw(st.sampled_from([_FEATURE, _TEXT | st.none()])), min_size=rows, max_size=rows))
        for _ in names
    ]
    texts = st.lists(st.just("") | _TEXT, min_size=rows, max_size=rows)
    shares = st.lists(st.none() | st.floats(0.001, 1), min_size=rows, max_size=rows)
    common = COMMON._replace(request_id=draw(_TEXT), user_id=draw(_TEXT), model=draw(_TEXT))
    features: Any = list(zip(*columns, strict=True))
    if draw(st.booleans()):
        kinds = [set(map(type, column)) for column in columns]
        features = ManyRows([np.array(c) if kind == {float} else c for c, kind in zip(columns, kinds, strict=True)])
    return LogBatch(common, tuple(names), features, draw(texts), draw(texts), draw(shares))


@settings(max_examples=300, deadline=None)
@given(_batches())
def test_the_lines_are_the_rows(batch: LogBatch) -> None:
    """Read as CSV and JSON, the lines are the rows, whatever stands in names, ids and categories."""
    read = [dict(zip(COLUMNS, cells, strict=True)) for cells in csv.reader(batch.lines().splitlines(), strict=True)]
    assert len(read) == len(batch.features)
    for found, row in zip(read, batch.rows(), strict=True):
        said = {name: "" if value is None else str(value) for name, value in row._asdict().items()}
        assert json.loads(found.pop("features_json")) == json.loads(said.pop("features_json"))
        assert found == said


def test_either_log_takes_a_batch(tmp_path: Path) -> None:
    """The file and the memory hold the same rows afterwards."""
    batch = LogBatch(COMMON, ("a", "b"), [(1.5, "x"), (None, "y")], ["", "1"], ["0", "1"], [0.75, None])
    logs = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv"), MemoryRequestLog()
    for log in logs:
        log.append_batch(batch)
    on_disk, in_memory = (read_log(log).rows for log in logs)
    assert on_disk["request_id"].tolist() == ["r.0", "r.1"]
    assert on_disk.to_numpy().tolist()[0] == in_memory.to_numpy().tolist()[0]
    assert on_disk["features_json"].tolist() == ['{"a":1.5,"b":"x"}', '{"a":null,"b":"y"}']
