"""The request log: one contract for both, and the file's life among crashes and other processes."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crossfade import appendonly, csvslices
from crossfade.errors import LogUnavailable
from crossfade.logchoice import Choice
from crossfade.logreader import read_log
from crossfade.memorylog import MemoryRequestLog
from crossfade.postgres.link import opened
from crossfade.postgres.log import PostgresRequestLog
from crossfade.requestlog import COLUMNS, CsvRequestLog, LateLabel, LogRow, RequestLog, utc_now

NOW = "2026-01-02T03:04:05.000006+00:00"
HEADER = ",".join(COLUMNS)


def a_row(request_id: str, **changes: Any) -> LogRow:
    values: dict[str, Any] = {
        "ts_utc": NOW,
        "request_id": request_id,
        "user_id": "u1",
        "experiment_id": "m-v1-v2",
        "variant": "A",
        "alias": "prod",
        "model": "m",
        "model_version": "1",
        "ab_split_b": 0.5,
        "features_json": '{"a": 1.5, "b": 2.0}',
        "label": "",
        "prediction": "1",
        "probability": 0.75,
        "latency_ms": 1.25,
        "status": 200,
    }
    return LogRow(**{**values, **changes})


def _cells(row: LogRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS}


def late(request_id: str, label: str) -> LateLabel:
    return LateLabel(NOW, request_id, label)


def csv_log(folder: Path) -> CsvRequestLog:
    return CsvRequestLog(folder / "logs" / "requests.csv", folder / "logs" / "labels.csv")


@pytest.fixture(autouse=True)
def looks_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer sees at once, not within a hundredth of a second, that its file was moved away."""
    monkeypatch.setattr(appendonly, "_LOOK_SECONDS", 0.0)


@pytest.fixture(params=["csv", "memory", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RequestLog]:
    """Each log, empty."""
    if request.param != "postgres":
        yield csv_log(tmp_path) if request.param == "csv" else MemoryRequestLog()
        return
    url = request.getfixturevalue("module_database")
    with opened(url) as link:
        link.execute("truncate crossfade_rows, crossfade_labels restart identity")
    log = PostgresRequestLog(url, tmp_path / "spool")
    yield log
    log.stop()


class TestContract:
    """What every request log does."""

    def test_an_empty_log_reads_empty(self, log: RequestLog) -> None:
        """A log that nothing was written to has no rows and nothing to complain of."""
        contents = read_log(log)
        assert contents.rows.columns.tolist() == list(COLUMNS)
        assert (len(contents.rows), contents.set_aside) == (0, 0)
        assert len(contents.labeled()) == 0

    def test_what_is_appended_is_read(self, log: RequestLog) -> None:
        """Rows come back in order, with types: numbers, UTC time stamps, missing where nothing was."""
        log.append([a_row("r1", label="0"), a_row("r2", user_id="", probability=None)])
        log.append([a_row("r3", status=500, prediction="", probability=None)])
        rows = read_log(log).rows
        assert rows["request_id"].tolist() == ["r1", "r2", "r3"]
        assert rows["status"].tolist() == [200, 200, 500]
        assert rows["ab_split_b"].tolist() == [0.5] * 3
        assert rows["latency_ms"].tolist() == [1.25] * 3
        assert rows["ts_utc"].map(str).tolist() == ["2026-01-02 03:04:05.000006+00:00"] * 3
        assert rows["label"].isna().tolist() == [False, True, True]
        assert rows["prediction"].isna().tolist() == [False, False, True]
        assert rows["probability"].isna().tolist() == [False, True, True]
        assert rows["user_id"].tolist() == ["u1", "", "u1"]

    @pytest.mark.parametrize("text", ['say "hi", you', "a,b", "'", "é 日本", "NaN", "NULL", "007", "1e5", " x "])
    def test_text_survives(self, log: RequestLog, text: str) -> None:
        """Commas, quotes, other alphabets and what looks like a number or a null stay the text they are."""
        log.append([a_row(text, user_id=text, label=text, prediction=text)])
        row = read_log(log).rows.iloc[0]
        assert [row["request_id"], row["user_id"], row["label"], row["prediction"]] == [text] * 4

    def test_numbers_survive(self, log: RequestLog) -> None:
        """Probability, latency and split come back to the last digit or so."""
        log.append([a_row("r", probability=0.1 + 0.2, latency_ms=1e-7, ab_split_b=1 / 3)])
        row = read_log(log).rows.iloc[0]
        found = (row["probability"], row["latency_ms"], row["ab_split_b"])
        assert found == pytest.approx((0.3, 1e-7, 1 / 3), rel=1e-15)

    def test_a_late_label_is_joined(self, log: RequestLog) -> None:
        """A label that comes later stands in its row."""
        log.append([a_row("r1"), a_row("r2")])
        log.append_labels([late("r2", "7")])
        assert read_log(log).labeled()[["request_id", "label"]].to_numpy().tolist() == [["r2", "7"]]

    def test_the_last_late_label_wins(self, log: RequestLog) -> None:
        """Of several late labels the last one counts, over the one that came with the request, too."""
        log.append([a_row("r1", label="0")])
        log.append_labels([late("r1", "1"), late("r1", "2")])
        log.append_labels([late("r1", "3")])
        assert read_log(log).rows["label"].tolist() == ["3"]

    def test_a_label_may_come_before_its_row(self, log: RequestLog) -> None:
        """A label stored before its row is joined once the row is there."""
        log.append_labels([late("r1", "2")])
        assert read_log(log).rows.empty
        log.append([a_row("r1")])
        assert read_log(log).rows["label"].tolist() == ["2"]

    def test_a_label_of_an_unknown_request_is_no_row(self, log: RequestLog) -> None:
        """A label whose request is not there makes no row."""
        log.append([a_row("r1")])
        log.append_labels([late("x", "1"), late("r1", "0")])
        assert read_log(log).rows["request_id"].tolist() == ["r1"]

    def test_rows_and_columns_are_chosen(self, log: RequestLog) -> None:
        """Only the rows of a model, and the columns asked for beside those that every row needs, are read."""
        log.append([a_row("r1", model="other"), a_row("r2"), a_row("r3", experiment_id="e")])
        log.append_labels([late("r2", "1")])
        rows = read_log(log, ("prediction",), model="m").rows
        assert rows.columns.tolist() == ["ts_utc", "request_id", "label", "prediction", "status"]
        assert rows[["request_id", "label"]].astype(object).fillna("").to_numpy().tolist() == [["r2", "1"], ["r3", ""]]
        assert read_log(log, model="m", experiment_id="e").rows["request_id"].tolist() == ["r3"]

    def test_slices_hold_what_was_chosen(self, log: RequestLog) -> None:
        """A slice gives the chosen rows only, in the asked order of columns, wherever it is read."""
        log.append([a_row("r1", model="other"), a_row("r2", status=500), a_row("r3", model_version="2"), a_row("r4")])
        choice = Choice.of(strangers=("2",), model="m", status="200")
        read = [pickle.loads(pickle.dumps(part)).read(("status", "request_id")) for part in log.slices(choice)]
        assert [table.to_pylist() for table, _ in read] == [[{"status": "200", "request_id": "r4"}]]
        assert sum(set_aside for _, set_aside in read) == 0
        nobody = [part.read(("request_id",))[0].num_rows for part in log.slices(Choice.of(experiment_id="m-v8-v9"))]
        assert sum(nobody) == 0

    def test_labelled_rows_are_chosen(self, log: RequestLog) -> None:
        """Rows with a label, whenever it came, are read without the others, as `labeled` finds them among all."""
        log.append([a_row("r1", label="0"), a_row("r2"), a_row("r3"), a_row("r4", status=500, label="1")])
        log.append([a_row("r1", label="0", prediction="7")])
        log.append_labels([late("r3", "2")])
        contents = read_log(log, labeled=True)
        assert contents.rows["request_id"].tolist() == ["r3", "r1"]
        assert contents.rows.to_numpy().tolist() == read_log(log).labeled().to_numpy().tolist()

    @pytest.mark.parametrize("without", [["r1", "r4", "x"], {"r1", "r4"}, ("r4", "r1")])
    def test_requests_are_left_out(self, log: RequestLog, without: Any) -> None:
        """Rows of the named requests are left out, labelled or not; one that the log does not hold is no matter."""
        log.append([a_row("r1", label="0"), a_row("r2"), a_row("r3", model="other", label="0")])
        log.append([a_row("r1", label="1"), a_row("r4"), a_row("r5")])
        log.append_labels([late("r2", "1"), late("r4", "1")])
        assert read_log(log, without=without).rows["request_id"].tolist() == ["r2", "r3", "r5"]
        assert read_log(log, ("label",), labeled=True, without=without, model="m").rows["request_id"].tolist() == ["r2"]
        assert read_log(log, without=["r1", "r2", "r3", "r4", "r5"]).rows.empty
        assert len(read_log(log, without=[]).rows) == 6

    def test_labeled_keeps_the_newest_of_a_request(self, log: RequestLog) -> None:
        """A request id that was answered twice counts once, as its newest row."""
        log.append(
            [a_row("r1", label="0", prediction="0"), a_row("r2", label="1"), a_row("r1", label="0", prediction="5")]
        )
        labeled = read_log(log).labeled()
        assert labeled[["request_id", "prediction"]].to_numpy().tolist() == [["r2", "1"], ["r1", "5"]]

    def test_failed_rows_are_not_labeled(self, log: RequestLog) -> None:
        """A row the model failed on has nothing to compare its label with, and hides no earlier answer."""
        log.append([a_row("r1", label="0"), a_row("r1", label="0", status=500, prediction=""), a_row("r2", status=500)])
        log.append_labels([late("r2", "1")])
        labeled = read_log(log).labeled()
        assert labeled[["request_id", "status"]].to_numpy().tolist() == [["r1", 200]]

    def test_a_row_may_be_large(self, log: RequestLog) -> None:
        """A row of many features (the router takes bodies of 4 MiB) is read like any other."""
        names = [f"f{i}" for i in range(200_000)]
        log.append([a_row("big", features_json=json.dumps(dict.fromkeys(names, 1.0))), a_row("next")])
        assert read_log(log).rows["request_id"].tolist() == ["big", "next"]


def _append_many(path: str, writer: int, rows: int, barrier: Any) -> None:
    log = CsvRequestLog(Path(path), Path(path).with_name("labels.csv"))
    barrier.wait()
    for i in range(rows):
        log.append([a_row(f"{writer}-{i}", user_id='a "quoted", one' * 20)])
        log.append_labels([late(f"{writer}-{i}", str(writer))])


def test_many_processes_append_at_once(tmp_path: Path) -> None:
    """Processes that start together on no file write one header, and every row of every one is read."""
    writers, rows = 6, 100
    path = tmp_path / "new" / "requests.csv"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(writers)
    processes = [context.Process(target=_append_many, args=(str(path), w, rows, barrier)) for w in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * writers
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert [line == list(COLUMNS) for line in lines].count(True) == 1
    assert {len(line) for line in lines} == {len(COLUMNS)}
    contents = read_log(CsvRequestLog(path, path.with_name("labels.csv")))
    assert sorted(contents.rows["request_id"]) == sorted(f"{w}-{i}" for w in range(writers) for i in range(rows))
    assert contents.rows["label"].tolist() == [name.split("-")[0] for name in contents.rows["request_id"]]
    assert contents.set_aside == 0
    assert sorted(found.name for found in path.parent.iterdir()) == ["labels.csv", "requests.csv"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """File of a CSV log that holds the rows r1 and r2."""
    log = csv_log(tmp_path)
    log.append([a_row("r1"), a_row("r2")])
    return tmp_path / "logs" / "requests.csv"


def _reopened(path: Path) -> CsvRequestLog:
    return CsvRequestLog(path, path.with_name("labels.csv"))


def _add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_the_file_is_as_documented(path: Path) -> None:
    """The first line is the documented header; one line per row follows."""
    lines = path.read_text().splitlines()
    assert lines[0] == (
        "ts_utc,request_id,user_id,experiment_id,variant,alias,model,model_version,ab_split_b,"
        "features_json,label,prediction,probability,latency_ms,status"
    )
    assert len(lines) == 3


def test_rows_are_written_as_by_the_csv_module(path: Path) -> None:
    """Quotes and commas may be in any text, those included that the rows of an arm have in common."""
    log, rows = (
        _reopened(path),
        [a_row("r3", alias="a,b"), a_row('r"4', alias='say "hi"', user_id=",", probability=None)],
    )
    log.append([*rows, *rows])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows * 2)
    assert path.read_text().endswith(text.getvalue())


def test_a_second_writer_adds_no_header(path: Path) -> None:
    """A writer that finds the file only appends."""
    _reopened(path).append([a_row("r3")])
    assert path.read_text().count(HEADER) == 1


TORN = [
    pytest.param(b"2026-01-02T03:0", id="in the first field"),
    pytest.param(b"2026-01-02T03:04:05+00:00,r9,u", id="between fields"),
    pytest.param(b'2026-01-02T03:04:05+00:00,r9,u,e,A,prod,m,1,0.5,"{""a"": 1.', id="within quotes"),
    pytest.param(b'2026-01-02T03:04:05+00:00,r9,u,e,A,prod,m,1,0.5,"{""a"": 1.0, "', id="between doubled quotes"),
    pytest.param("2026-01-02T03:04:05+00:00,r9,é".encode()[:-1], id="within a letter"),
]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_set_aside(path: Path, torn: bytes) -> None:
    """A last line cut short by a crash is left out and counted; the rows before it stay."""
    _add(path, torn)
    contents = read_log(_reopened(path))
    assert contents.rows["request_id"].tolist() == ["r1", "r2"]
    assert contents.set_aside == 1


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_line_in_the_middle_is_set_aside(path: Path, torn: bytes) -> None:
    """A torn line between whole ones spoils itself only."""
    _add(path, torn + b"\n")
    log = _reopened(path)
    log.append([a_row("r3"), a_row("r4")])
    contents = read_log(log)
    assert contents.rows["request_id"].tolist() == ["r1", "r2", "r3", "r4"]
    assert contents.set_aside == 1


@pytest.mark.parametrize("torn", TORN)
def test_a_row_written_after_a_torn_one_is_kept(path: Path, torn: bytes) -> None:
    """A row torn by a crash spoils itself only: the next writer's row, which was acknowledged, is read."""
    _add(path, torn)
    log = _reopened(path)
    log.append([a_row("r3"), a_row("r4")])
    contents = read_log(log)
    assert contents.rows["request_id"].tolist() == ["r1", "r2", "r3", "r4"]
    assert contents.set_aside == 1


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b'2026-01-02T03:04:05+00:00,r9,"u', id="unbalanced quote"),
        pytest.param(b'r9 "u,"', id="two quotes that do not pair"),
        pytest.param(b"a,b,c", id="too few fields"),
        pytest.param(b"," * 20, id="too many fields"),
        pytest.param(b"yesterday,r9" + b"," * 12 + b"200", id="no time"),
        pytest.param(b"2026-01-02T03:04:05+00:00,r9" + b"," * 12 + b"fine", id="no status"),
        pytest.param(b"2026-01-02T03:04:05+00:00,\xff" + b"," * 12 + b"200", id="no UTF-8"),
        pytest.param(b"\x00" * 40, id="zero bytes"),
        pytest.param(HEADER.encode(), id="a second header"),
    ],
)
def test_a_damaged_line_is_set_aside(path: Path, damaged: bytes) -> None:
    """A line that is no row is left out and counted, and no other line is lost."""
    _add(path, damaged + b"\n")
    log = _reopened(path)
    log.append([a_row("r3"), a_row("r4")])
    contents = read_log(log)
    assert contents.rows["request_id"].tolist() == ["r1", "r2", "r3", "r4"]
    assert contents.set_aside == 1


def test_torn_labels_are_counted_too(path: Path) -> None:
    """A torn line among the late labels is set aside like one among the rows."""
    log = _reopened(path)
    log.append_labels([late("r1", "1")])
    _add(path.with_name("labels.csv"), b"2026-01-02T03:04:05+00:00,r2,0")
    contents = read_log(log)
    assert contents.labeled()["request_id"].tolist() == ["r1"]
    assert contents.set_aside == 1


def test_a_file_moved_away_is_started_anew(path: Path) -> None:
    """A writer whose file was moved away (rotation) goes on in a new file with a header; the old one is whole."""
    log = _reopened(path)
    log.append([a_row("r3")])
    moved = path.rename(path.with_name("old.csv"))
    log.append([a_row("r4")])
    assert path.read_text().startswith(HEADER + "\n")
    assert read_log(log).rows["request_id"].tolist() == ["r4"]
    assert read_log(_reopened(moved)).rows["request_id"].tolist() == ["r1", "r2", "r3"]


def test_a_file_replaced_by_another_is_followed(path: Path) -> None:
    """A writer whose file was replaced writes to the new one."""
    log = _reopened(path)
    log.append([a_row("r3")])
    path.rename(path.with_name("old.csv"))
    _reopened(path).append([a_row("r4")])
    log.append([a_row("r5")])
    assert read_log(log).rows["request_id"].tolist() == ["r4", "r5"]


def test_another_versions_header_is_refused(path: Path) -> None:
    """A file with other columns is not guessed at: it is refused, with what to do."""
    path.write_text(path.read_text().replace("latency_ms", "seconds"))
    with pytest.raises(LogUnavailable, match="Move the file away"):
        read_log(_reopened(path))


def test_a_folder_that_cannot_be_made_makes_the_log_unavailable(tmp_path: Path) -> None:
    """A folder that cannot be made is LogUnavailable, naming the file."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    log = csv_log(tmp_path)
    with pytest.raises(LogUnavailable, match=r"requests\.csv cannot be written"):
        log.append([a_row("r1")])


def test_an_unreadable_log_is_unavailable(tmp_path: Path) -> None:
    """A log that cannot be read is LogUnavailable, not an empty log."""
    (tmp_path / "logs" / "requests.csv").mkdir(parents=True)
    with pytest.raises(LogUnavailable, match=r"requests\.csv cannot be read"):
        read_log(csv_log(tmp_path))


def test_a_full_disk_makes_the_log_unavailable(tmp_path: Path) -> None:
    """A full disk is LogUnavailable, saying so."""
    (tmp_path / "requests.csv").symlink_to("/dev/full")
    log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")
    with pytest.raises(LogUnavailable, match="No space left"):
        log.append([a_row("r1")])


def test_time_stamps_sort_as_text() -> None:
    """Time stamps are ISO 8601 in UTC with microseconds, so that their order is the order of the text."""
    earlier, later = utc_now(), utc_now()
    assert earlier <= later
    assert len(earlier) == len("2026-01-02T03:04:05.000006+00:00")
    assert earlier.endswith("+00:00")


class TestSlices:
    """The log is read in parts that need not fit into memory together."""

    @pytest.fixture(autouse=True)
    def _small_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csvslices, "_SLICE_BYTES", 500)

    def test_slices_are_whole_lines_in_order(self, path: Path) -> None:
        """Every row stands in one slice, and the slices in the order of the file."""
        log = _reopened(path)
        log.append([a_row(f"r{i}", user_id="u" * (i % 400)) for i in range(3, 60)])
        slices = log.slices()
        read = [part.read(("request_id",)) for part in slices]
        assert len(slices) > 10
        assert [name for table, _ in read for name in table["request_id"].to_pylist()] == [
            f"r{i}" for i in range(1, 60)
        ]
        assert {torn for _, torn in read} == {0}

    def test_a_slice_stays_what_it_was(self, path: Path) -> None:
        """Rows that are appended later make slices of their own; an old one reads as before, in any process."""
        log = _reopened(path)
        log.append([a_row(f"r{i}") for i in range(3, 20)])
        before = [pickle.loads(pickle.dumps(part)).read(COLUMNS)[0] for part in log.slices()]
        log.append([a_row(f"r{i}") for i in range(20, 40)])
        after = [part.read(COLUMNS)[0] for part in log.slices()]
        assert after[: len(before) - 1] == before[:-1]

    @pytest.mark.parametrize("torn", TORN)
    def test_torn_lines_spoil_no_other_slice(self, path: Path, torn: bytes) -> None:
        """Torn lines are counted once each, wherever the slices are cut."""
        for i in range(3, 30):
            _add(path, torn + b"\n")
            _reopened(path).append([a_row(f"r{i}")])
        contents = read_log(_reopened(path))
        assert contents.rows["request_id"].tolist() == [f"r{i}" for i in range(1, 30)]
        assert contents.set_aside == 27

    def test_parts_are_read_before_the_file(self, path: Path) -> None:
        """Rows that were moved to Parquet parts are read first, oldest part first, a slice per row group."""
        for day in (2, 1):
            rows = pd.DataFrame([_cells(a_row(f"d{day}-{i}", label="0")) for i in range(4)]).astype(str)
            rows.to_parquet(path.with_name(f"requests.2026-01-0{day}.parquet"), row_group_size=2, index=False)
        log = _reopened(path)
        names = [f"d{day}-{i}" for day in (1, 2) for i in range(4)]
        assert len(log.slices()) == 5
        assert read_log(log).rows["request_id"].tolist() == [*names, "r1", "r2"]
        assert read_log(log, ("prediction",), labeled=True).rows["request_id"].tolist() == names

    def test_a_broken_part_is_said_so(self, path: Path) -> None:
        """A part that is no Parquet makes the log unavailable, and names the file."""
        path.with_name("requests.2026-01-01.parquet").write_text("no parquet")
        with pytest.raises(LogUnavailable, match=r"requests\.2026-01-01\.parquet cannot be read.*Move the file away"):
            read_log(_reopened(path))

    def test_parts_of_other_types_are_read_as_text(self, path: Path) -> None:
        """A part that somebody wrote with numbers, categories and gaps holds the same rows."""
        rows = pd.DataFrame([_cells(a_row(f"d{i}", label="0")) for i in range(4)])
        rows["variant"] = rows["variant"].astype("category")
        rows.loc[1, ["features_json", "user_id"]] = None
        rows.to_parquet(path.with_name("requests.2026-01-01.parquet"), index=False)
        found = read_log(_reopened(path)).rows
        assert found["request_id"].tolist() == ["d0", "d1", "d2", "d3", "r1", "r2"]
        assert found["status"].tolist() == [200] * 6
        assert found["user_id"].tolist()[1] == ""

    def test_line_ends_of_windows_cost_no_row(self, path: Path) -> None:
        """A file that an editor saved with other line ends is read, torn line or not."""
        _reopened(path).append([a_row(f"r{i}") for i in range(3, 9)])
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"torn,line\r\n")
        contents = read_log(_reopened(path))
        assert contents.rows["request_id"].tolist() == [f"r{i}" for i in range(1, 9)]
        assert contents.set_aside == 1
