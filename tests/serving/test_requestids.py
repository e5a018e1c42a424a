"""Names for requests: no two alike, whoever gives them out."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

from crossfade.serving.requestids import new_request_id


def _some(_: int) -> list[str]:
    return [new_request_id() for _ in range(1000)]


def test_no_two_are_alike() -> None:
    """Eight threads get names that differ, each of 32 hexadecimal digits."""
    with ThreadPoolExecutor(8) as pool:
        names = [name for some in pool.map(_some, range(8)) for name in some]
    assert len(set(names)) == 8000
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)


def test_a_fork_gives_out_others() -> None:
    """Processes that were forked from one that had names ready do not share them."""
    mine = [new_request_id()]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        theirs = [name for some in pool.map(_some, range(2)) for name in some]
    mine += _some(0)
    assert len({*mine, *theirs}) == 3001
