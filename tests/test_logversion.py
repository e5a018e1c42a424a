"""The header says which Crossfade wrote a log: a newer one is refused everywhere, in one line; an older one is read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from app import create_app
from crossfade import logversion
from crossfade.appendonly import AppendOnlyCsv
from crossfade.csvslices import slices_of
from crossfade.errors import LogUnavailable
from crossfade.logpacking import pack
from crossfade.logparts import part_of
from crossfade.logreader import read_log
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS, CsvRequestLog, LogRow
from crossfade.settings import Settings
from crossfade.version import Version

NOW = "2026-01-02T03:04:05.000006+00:00"
ROW = LogRow(NOW, "r1", "u1", "m-v1-v2", "A", "prod", "m", "1", 0.5, '{"a":1.5}', "0", "1", 0.75, 1.25, 200)
NEWER = (*COLUMNS, "country", "device")
SAID = r"requests.*was written by a newer Crossfade: it has the columns country, device as well\. Update this"


@pytest.fixture
def log(tmp_path: Path) -> CsvRequestLog:
    return CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")


def _newer(path: Path) -> Path:
    """Write what a later version writes, which adds columns at the end."""
    line = ",".join('"{""a"":1}"' if name == "features_json" else "1" for name in NEWER)
    path.write_text(f"{','.join(NEWER)}\n{line}\n")
    return path


def _later_crossfade(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Columns of a Crossfade that adds one and knows today's version as an earlier one."""
    columns = (*COLUMNS, "country")
    monkeypatch.setitem(logversion.EARLIER, columns, (len(COLUMNS),))  # type: ignore[arg-type]
    return columns


def test_a_newer_log_is_refused_by_readers_and_writers(log: CsvRequestLog) -> None:
    """Neither is a row taken out of it nor one put into it, and each says the same line."""
    path = _newer(log.paths[0])
    before = path.read_bytes()
    with pytest.raises(LogUnavailable, match=SAID):
        read_log(log)
    with pytest.raises(LogUnavailable, match=SAID):
        log.append([ROW])
    assert "newer Crossfade" in str(log.problem)
    assert path.read_bytes() == before
    path.unlink()
    log.append([ROW])
    assert log.problem is None


def test_newer_parts_are_refused(log: CsvRequestLog) -> None:
    """A part of an earlier day counts like the file, as CSV and packed."""
    part = _newer(log.paths[0].with_name("requests.2026-01-02.csv"))
    with pytest.raises(LogUnavailable, match=SAID):
        read_log(log)
    pack(part, log.paths[0], NEWER)
    with pytest.raises(LogUnavailable, match=SAID.replace("requests", r"requests.2026-01-02\.parquet")):
        read_log(log)


def test_the_router_refuses_a_newer_log(settings: Settings, register: Callable[..., Version]) -> None:
    """A request is 503 with that line, the newest rows as well, and /health names it."""
    register("prod")
    settings.request_log.parent.mkdir(parents=True)
    _newer(settings.request_log)
    client = create_app(settings, follow=False).test_client()
    refused = client.post("/predict", json={"user_id": "u", "features": [5.1, 3.5, 1.4, 0.2]})
    assert refused.status_code == 503
    assert "newer Crossfade" in refused.get_json()["detail"]
    assert "newer Crossfade" in client.get("/monitor/basic").get_json()["detail"]
    assert any("newer Crossfade" in problem for problem in client.get("/health").get_json()["problems"])


def test_a_later_crossfade_reads_todays_log(log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier version did not write is empty, in CSV and packed, whoever packed it."""
    log.append([ROW])
    columns = _later_crossfade(monkeypatch)
    path = log.paths[0]

    def read() -> list[dict[str, str]]:
        return [row for one in slices_of(path, columns) for row in one.read(("request_id", "country"))[0].to_pylist()]

    expected = [{"request_id": "r1", "country": ""}]
    assert read() == expected
    part = part_of(path, date(2026, 1, 2), ".csv")
    path.rename(part)
    copy = part.read_bytes()
    pack(part, path, COLUMNS)  # by the earlier version
    assert read() == expected
    part.with_suffix(".parquet").unlink()
    part.write_bytes(copy)
    pack(part, path, columns)  # by the later one
    assert read() == expected


def test_nobody_adds_to_an_older_log(log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows would be of two lengths: a writer says how to put it aside, where it is still read."""
    log.append([ROW])
    columns = _later_crossfade(monkeypatch)
    later = AppendOnlyCsv(log.paths[0], columns)
    with pytest.raises(LogUnavailable, match=r"older Crossfade\. Rename it to requests\.<day of its first row>\.csv"):
        later.append([[*ROW, "nl"]])
    log.paths[0].rename(log.paths[0].with_name("requests.2026-01-02.csv"))
    later.append([[*ROW, "nl"]])
    tables = [one.read(("country",))[0] for one in later.slices()]
    assert [row["country"] for table in tables for row in table.to_pylist()] == ["", "nl"]


def test_versions_only_add_columns() -> None:
    """Version 1 is the contract's header; whoever adds a column has to name it in EARLIER."""
    assert (len(COLUMNS), len(LABEL_COLUMNS)) == (15, 3)
    assert COLUMNS[:3] == ("ts_utc", "request_id", "user_id")
    assert COLUMNS[-1] == "status"
