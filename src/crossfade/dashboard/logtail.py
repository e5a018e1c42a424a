"""The request log, followed: every slice is read once, and at a refresh only what has come since.

Slices are cut by the log itself (csvslices.py, postgres/reading.py) and stay what they are, wherever rotation moves the
file; only the newest one grows, by at most 4 MB or 16,384 rows before it is closed, and is read again while it does.
The newest rows are read first, so that a page has something to show while a long log is still being read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from crossfade.dashboard.answers import COLUMNS, Answers, Codes, Group, Ints, digests, take
from crossfade.errors import LogUnavailable
from crossfade.logchoice import EVERY, Choice
from crossfade.logreader import read_log
from crossfade.requestlog import LateLabel, LogRow, LogSlice, RequestLog


@dataclass(frozen=True)
class Tail:
    """What is known of the log."""

    parts: tuple[Answers, ...] = ()
    """Oldest first."""
    groups: tuple[Group, ...] = ()
    """By number."""
    complete: bool = True
    """Whether everything that is there, or as much as is kept, has been read."""
    more: bool = False
    """Whether older rows are there that are not kept."""
    revision: int = 0
    """Changes when anything does."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(map(len, self.parts))

    @property
    def set_aside(self) -> int:
        """Lines that were no rows."""
        return sum(part.set_aside for part in self.parts)

    @property
    def newest(self) -> int | None:
        """Milliseconds since the epoch; None without rows."""
        return max((int(part.at.max()) for part in self.parts if len(part)), default=None)

    @property
    def oldest(self) -> int | None:
        """Milliseconds since the epoch; None without rows."""
        return min((int(part.at.min()) for part in self.parts if len(part)), default=None)


class LogTail:
    """Follows a log.

    Parameters
    ----------
    log : RequestLog
        The log.
    model : str
        Rows of other registered models are left out.
    most_rows : int
        The newest rows that are kept, in whole slices: some thousands more may be.
    """

    def __init__(self, log: RequestLog, model: str, most_rows: int) -> None:
        self._log = log
        self._mine = Choice.of(model=model)
        self._most_rows = most_rows
        self._codes = Codes()
        self._known: dict[Hashable, Answers] = {}
        self._labels = LateLabels(log, self._codes, most_rows)
        self._tail = Tail()

    def refresh(self, seconds: float = math.inf) -> Tail:
        """Read what is new; after so many seconds what is left is for the next time.

        Raises
        ------
        LogUnavailable
            The log cannot be read, or is not there any more; what was known stays known.
        """
        slices = list(self._log.slices(self._mine))
        if not slices and self._known:
            raise LogUnavailable("the request log is gone: put it back, or look where REQUEST_LOG points")
        deadline, kept, rows, complete = time.monotonic() + seconds, dict[Hashable, Answers](), 0, True
        while slices and rows < self._most_rows:
            if time.monotonic() > deadline:
                complete = False
                break
            part = slices.pop()
            found = self._known.get(part.mark)
            kept[part.mark] = found = self._read(part) if found is None else found
            rows += len(found)
        more = bool(slices) and complete
        if not complete:
            kept |= {part.mark: self._known[part.mark] for part in reversed(slices) if part.mark in self._known}
        new_ids, new_labels = self._labels.refresh() if complete else NOTHING_NEW
        if len(new_ids):
            kept = {key: answers.labeled(new_ids, new_labels) for key, answers in kept.items()}
        changed = kept.keys() != self._known.keys() or len(new_ids) or complete != self._tail.complete
        self._known = kept
        if changed:
            parts = tuple(reversed(kept.values()))
            self._tail = Tail(parts, tuple(self._codes.groups), complete, more, self._tail.revision + 1)
        return self._tail

    def _read(self, part: LogSlice) -> Answers:
        answers = take(read_log(OneSlice(part), COLUMNS), self._codes)
        return self._labels.put(answers)


NOTHING_NEW = (np.array([], np.uint64), np.array([], np.int32))


class LateLabels:
    """The labels that came later, by digest of their request id.

    Parameters
    ----------
    log : RequestLog
        Whose labels.
    codes : Codes
        Numbers them.
    most : int
        The newest ones that are kept, in whole slices.
    """

    def __init__(self, log: RequestLog, codes: Codes, most: int) -> None:
        self._log = log
        self._codes = codes
        self._most = most
        self._ids, self._labels = NOTHING_NEW
        self._taken: dict[Hashable, Hashable] = {}
        self._newest: tuple[Hashable, Ints, Ints] = (None, *NOTHING_NEW)

    def put(self, answers: Answers) -> Answers:
        """Put what is known in place."""
        if not len(self._ids) or not len(answers):
            return answers
        place = np.minimum(np.searchsorted(self._ids, answers.ids), len(self._ids) - 1)
        hit = self._ids[place] == answers.ids
        return answers.labeled(answers.ids[hit], self._labels[place[hit]])

    def refresh(self) -> tuple[Ints, Ints]:
        """Read the labels that are new, and return them, oldest first; all of them when files were moved.

        Where not the newest slice alone has grown, those after it come again: what came last is put in place last.
        """
        slices = list(self._log.label_slices())
        beginnings = [part.beginning for part in slices]
        left = set(beginnings)
        self._taken = {known: mark for known, mark in self._taken.items() if known in left}  # retention took the others
        if list(self._taken) != beginnings[: len(self._taken)]:  # rotated: once a day
            self._taken = {}
            self._ids, self._labels = NOTHING_NEW
        same = [self._taken.get(part.beginning) == part.mark for part in slices]
        fresh = [self._read(part) for part in slices[same.index(False) if False in same else len(slices) :]]
        if not sum(len(ids) for ids, _ in fresh):
            return NOTHING_NEW
        ids, labels = (np.concatenate(arrays) for arrays in zip(*fresh, strict=True))
        self._keep(ids, labels)
        return ids, labels

    def _read(self, part: LogSlice) -> tuple[Ints, Ints]:
        """Read a slice, but for what was the beginning of the newest one before."""
        table, _ = part.read(("request_id", "label"))
        names, number = np.unique(table["label"].to_numpy(), return_inverse=True)
        labels = self._codes.of_texts(names.tolist())[number] if len(number) else NOTHING_NEW[1]
        ids = digests(table["request_id"].to_numpy())
        beginning, old_ids, old_labels = self._newest
        self._taken[part.beginning], self._newest = part.mark, (part.beginning, ids, labels)
        done = len(old_ids)
        if part.beginning != beginning or not (
            np.array_equal(ids[:done], old_ids) and np.array_equal(labels[:done], old_labels)
        ):
            return ids, labels
        return ids[done:], labels[done:]

    def _keep(self, ids: Ints, labels: Ints) -> None:
        """Merge new labels into the sorted ones; of the same request the last one stays."""
        every, theirs = np.concatenate([self._ids, ids]), np.concatenate([self._labels, labels])
        order = np.argsort(every, kind="stable")  # radix sort: 20 ms for a million
        every, theirs = every[order], theirs[order]
        last = np.append(every[1:] != every[:-1], True)
        self._ids, self._labels = every[last], theirs[last]


class OneSlice(RequestLog):
    """Some slices of a log, as a log, to be read by the reader of logs; their rows were chosen when they were cut."""

    def __init__(self, *parts: LogSlice) -> None:
        self._parts = parts

    def append(self, rows: Sequence[LogRow]) -> None:
        """Refuse: this is for reading."""
        raise NotImplementedError

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Refuse: this is for reading."""
        raise NotImplementedError

    def slices(self, choice: Choice = EVERY) -> Sequence[LogSlice]:  # noqa: ARG002 - it was made before
        """Return them."""
        return self._parts

    def label_slices(self) -> Sequence[LogSlice]:
        """Return none: late labels are put in place by `LateLabels`."""
        return ()
