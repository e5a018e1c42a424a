"""The split in force."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crossfade.errors import LogUnavailable
from crossfade.serving.config import SplitConfig

NONSENSE = {
    "empty": b"",
    "half written": b'{"ab_split',
    "not JSON": b"half of them",
    "not text": b"\xff\xfe\x00\x01",
    "nested too deeply": b"[" * 100_000 + b"]" * 100_000,
    "a list": b"[0.3]",
    "a number": b"0.3",
    "null": b"null",
    "without the key": b'{"split": 0.3}',
    "text for the share": b'{"ab_split_b": "0.3"}',
    "a boolean": b'{"ab_split_b": true}',
    "null for the share": b'{"ab_split_b": null}',
    "not a number": b'{"ab_split_b": NaN}',
    "infinite": b'{"ab_split_b": Infinity}',
    "negative": b'{"ab_split_b": -0.1}',
    "above one": b'{"ab_split_b": 1.1}',
    "a huge integer": b'{"ab_split_b": ' + b"9" * 400 + b"}",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the split is kept; its folder does not exist yet."""
    return tmp_path / "logs" / "router_config.json"


def test_default_without_file(path: Path) -> None:
    """Without a file the default is in force, and nothing is wrong."""
    config = SplitConfig(path, 0.25)
    assert (config.split_b, config.problem) == (0.25, None)


def test_reading_makes_no_file(path: Path) -> None:
    """Looking at the split leaves the disk alone."""
    assert SplitConfig(path, 0.25).split_b == 0.25
    assert not path.parent.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_a_share_that_is_set_is_in_force(path: Path, share: float) -> None:
    """What is set is what is read, up to both ends."""
    config = SplitConfig(path, 0.25)
    config.split_b = share
    assert config.split_b == share


def test_two_instances_see_each_others_change_at_once(path: Path) -> None:
    """Of two workers on one file, each reads what the other set last, at its next look."""
    one, other = SplitConfig(path, 0.5), SplitConfig(path, 0.5)
    seen = []
    for step in range(100):
        one.split_b = step / 1000
        seen.append(other.split_b == step / 1000)
        other.split_b = step / 1000 + 0.5
        seen.append(one.split_b == step / 1000 + 0.5)
    assert all(seen)


def test_requests_are_split_by_a_recent_look(path: Path) -> None:
    """What was set here is in force here at once, and in every worker after a moment."""
    one, other = SplitConfig(path, 0.5), SplitConfig(path, 0.5)
    assert (one.recent_split_b, other.recent_split_b) == (0.5, 0.5)
    one.split_b = 0.125
    assert one.recent_split_b == 0.125
    one.settle()
    assert other.recent_split_b == 0.125


def test_a_change_in_quick_succession_is_not_missed(path: Path) -> None:
    """A worker that slept through one of two changes reads the second."""
    writer, reader = SplitConfig(path, 0.5), SplitConfig(path, 0.5)
    seen = []
    for _ in range(200):
        writer.split_b = 0.1
        seen.append(reader.split_b)
        writer.split_b = 0.2
        writer.split_b = 0.3
        seen.append(reader.split_b)
    assert seen == [0.1, 0.3] * 200


def test_the_split_survives_a_restart(path: Path) -> None:
    """A new instance goes on with the share that was set, not with its default."""
    SplitConfig(path, 0.5).split_b = 0.125
    assert SplitConfig(path, 0.5).split_b == 0.125


def test_the_file_is_plain_json(path: Path) -> None:
    """The file says `{"ab_split_b": share}` and nothing else."""
    SplitConfig(path, 0.5).split_b = 0.125
    assert json.loads(path.read_text()) == {"ab_split_b": 0.125}


def test_a_change_leaves_no_draft_behind(path: Path) -> None:
    """After a change the folder holds the file alone."""
    SplitConfig(path, 0.5).split_b = 0.125
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_keeps_the_last_good_share(path: Path, content: bytes) -> None:
    """A file that makes no sense changes nothing, and the problem names the file."""
    config = SplitConfig(path, 0.5)
    config.split_b = 0.125
    assert config.split_b == 0.125
    path.with_name("draft").write_bytes(content)
    path.with_name("draft").replace(path)
    assert config.split_b == 0.125
    assert config.problem is not None
    assert str(path) in config.problem


def test_nonsense_at_the_start_leaves_the_default(path: Path) -> None:
    """A worker that starts on a file that makes no sense serves with the default, and says so."""
    path.parent.mkdir()
    path.write_text("half of them")
    config = SplitConfig(path, 0.25)
    assert config.split_b == 0.25
    assert config.problem is not None


def test_a_repaired_file_is_followed_again(path: Path) -> None:
    """Once the file makes sense again it is in force, and the problem is gone."""
    config = SplitConfig(path, 0.5)
    path.parent.mkdir()
    path.write_text("half of them")
    assert config.split_b == 0.5
    config.split_b = 0.75
    assert (config.split_b, config.problem) == (0.75, None)


def test_a_removed_file_brings_the_default_back(path: Path) -> None:
    """Without its file the split is the default again."""
    config = SplitConfig(path, 0.5)
    config.split_b = 0.125
    assert config.split_b == 0.125
    path.unlink()
    assert (config.split_b, config.problem) == (0.5, None)


def test_a_removed_bad_file_takes_its_problem_along(path: Path) -> None:
    """When the file that was not followed is gone, nothing is wrong any more."""
    path.parent.mkdir()
    path.write_text("half of them")
    config = SplitConfig(path, 0.5)
    assert config.split_b == 0.5
    path.unlink()
    assert (config.split_b, config.problem) == (0.5, None)


def test_a_share_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Where the file's folder is none, setting a share raises LogUnavailable, which names the file."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    path = tmp_path / "logs" / "router_config.json"
    with pytest.raises(LogUnavailable, match=r"router_config\.json cannot be written"):
        SplitConfig(path, 0.5).split_b = 0.125


def test_a_share_that_cannot_be_written_changes_nothing(path: Path) -> None:
    """After a failed change the share from before is still in force."""
    config = SplitConfig(path, 0.5)
    config.split_b = 0.125
    assert config.split_b == 0.125
    path.unlink()
    path.mkdir()
    with pytest.raises(LogUnavailable):
        config.split_b = 0.75
    assert config.split_b == 0.125


def test_a_file_that_cannot_be_reached_leaves_the_share_in_force(tmp_path: Path) -> None:
    """When the file cannot even be looked at, the last good share stays in force and the problem is named."""
    path = tmp_path / "logs" / "router_config.json"
    config = SplitConfig(path, 0.5)
    config.split_b = 0.125
    assert config.split_b == 0.125
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file where the folder should be")
    assert config.split_b == 0.125
    assert config.problem is not None


def test_concurrent_writers_never_leave_half_a_file(path: Path) -> None:
    """While eight threads of a worker set shares, every set succeeds and a reader only sees shares that were set."""
    config, reader = SplitConfig(path, 0.5), SplitConfig(path, 0.5)
    config.split_b = 0.0
    shares = [n / 1000 for n in range(8 * 50)]
    together, done = threading.Barrier(9), threading.Event()

    def write(mine: list[float]) -> None:
        together.wait()
        for share in mine:
            config.split_b = share

    def read() -> set[float | str]:
        together.wait()
        seen: set[float | str] = set()
        while not done.is_set():
            seen |= {reader.split_b, reader.problem or 0.0}
        return seen

    with ThreadPoolExecutor(9) as pool:
        seen = pool.submit(read)
        writers = [pool.submit(write, shares[i::8]) for i in range(8)]
        failures = [writer.exception() for writer in writers]
        done.set()
        assert failures == [None] * 8
        assert seen.result() <= set(shares)
    assert json.loads(path.read_text())["ab_split_b"] in {mine[-1] for mine in (shares[i::8] for i in range(8))}
