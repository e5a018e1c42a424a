"""What a lookout remembers when its source is gone."""

from __future__ import annotations

import threading

from crossfade.dashboard.lookout import Lookout


def test_a_failed_look_keeps_what_was_seen_and_says_since_when():
    """And the next good one takes the problem away."""
    answers: list[object] = [1, OSError("gone"), OSError("gone"), 2]

    def look() -> int:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return int(str(found))

    lookout = Lookout("thing", look, 0, 60)
    assert (lookout.look.value, lookout.look.seen, lookout.look.stale) == (0, None, False)
    seen = lookout.look_now()
    assert (seen.value, seen.stale) == (1, False)
    failed = lookout.look_now()
    assert (failed.value, failed.seen, failed.problem, failed.stale) == (1, seen.seen, "gone", True)
    still = lookout.look_now()
    assert (still.since, still.revision) == (failed.since, failed.revision)
    back = lookout.look_now()
    assert (back.value, back.problem, back.since) == (2, "", None)
    assert back.revision > failed.revision


def test_seeing_the_same_again_changes_nothing_but_the_time():
    """Panels are drawn anew only where there is something new."""
    lookout = Lookout("thing", lambda: [1], [], 60)
    first = lookout.look_now()
    again = lookout.look_now()
    assert first.revision == again.revision
    assert again.seen >= first.seen


def test_an_error_without_words_is_still_named():
    """By its kind."""
    lookout = Lookout("thing", lambda: {}["x"] and 1, 0, 60)
    assert lookout.look_now().problem == "'x'"


def test_somebody_may_have_it_looked_at_without_waiting():
    """After an act."""
    looked = threading.Semaphore(0)
    lookout = Lookout("thing", lambda: looked.release() or 1, 0, 3600)
    lookout.start()
    assert looked.acquire(timeout=120)
    lookout.look_soon()
    assert looked.acquire(timeout=120)
