"""The workers of one gunicorn: how many connections each of them holds, and how one is passed on to another.

The kernel gives a new connection to whichever worker wakes up first, and all connections of a client that keeps them
may end at one. Here each worker has a mailbox that outlives it, for it is made by the master: a worker that holds more
connections than another puts one there. What lies in the mailbox of a worker that is dead or stuck is taken out by
the others.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import termios
import time
from collections.abc import Iterator

ABLE_SECONDS = 5.0
"""For so long after its last sign of life a worker is given connections: it gives one every second."""

_CELLS = 3
"""Numbers of a place: its worker's process id, its open connections, and its last sign of life."""

_NEW, _KEPT = b"n", b"k"


class Siblings:
    """Places for workers; made before they are forked.

    Parameters
    ----------
    places : int
        How many workers there can be at once; more of them keep what the kernel gives them.
    """

    def __init__(self, places: int) -> None:
        self.numbers = memoryview(mmap.mmap(-1, 8 * _CELLS * places)).cast("d")
        """A store of eight aligned bytes, by one process each: a reader never sees half of one."""
        self.mailboxes = [socket.socketpair() for _ in range(places)]
        """By place, where connections are put in and taken out."""
        for pair in self.mailboxes:
            for end in pair:
                end.setblocking(False)


class Place:
    """What one worker sees of the others.

    Parameters
    ----------
    siblings : Siblings
        All places.
    number : int
        This worker's.
    """

    def __init__(self, siblings: Siblings, number: int) -> None:
        self.number = number
        self._numbers, self._mailboxes = siblings.numbers, siblings.mailboxes
        self._others = [place for place in range(len(siblings.mailboxes)) if place != number]

    @property
    def mailbox(self) -> socket.socket:
        """Readable when there is a connection to take over."""
        return self._mailboxes[self.number][1]

    def tell(self, connections: int) -> None:
        """Tell the others of one's connections, and that one lives."""
        at = self.number * _CELLS
        self._numbers[at + 1], self._numbers[at + 2] = connections, time.monotonic()
        self._numbers[at] = os.getpid()  # the last: now the rest is true

    def leave(self) -> None:
        """Be given no more connections."""
        self._numbers[self.number * _CELLS] = 0

    def lightest(self) -> tuple[int, int] | None:
        """Return who of the others that are able to has the fewest connections, and how many; None: nobody is able."""
        loads = [(self._load(place), place) for place in self._others if self._is_able(place)]
        if not loads:
            return None
        load, place = min(loads)
        return place, load

    def pass_on(self, client: socket.socket, place: int, kept: bool) -> bool:
        """Put a connection into another's mailbox; tell whether it took it: then it is no longer one's own.

        Parameters
        ----------
        client : socket
            Nothing was read from it but whole requests that are answered.
        place : int
            The other's.
        kept : bool
            Whether a request was answered on it already.
        """
        try:
            socket.send_fds(self._mailboxes[place][0], [_KEPT if kept else _NEW], [client.fileno()])
        except OSError:  # it is full, or the system allows no more descriptors on their way
            return False
        client.close()
        return True

    def take(self) -> Iterator[tuple[socket.socket, bool]]:
        """Take out what lies in one's own mailbox: connections, and whether each is a kept one."""
        return self._take_from(self.number)

    def take_orphans(self) -> Iterator[tuple[socket.socket, bool]]:
        """Take out what lies in the mailboxes of those who do not look after them."""
        for place in self._others:
            if self._waiting(place) and not self._is_able(place):
                yield from self._take_from(place)

    def _take_from(self, place: int) -> Iterator[tuple[socket.socket, bool]]:
        while True:
            try:
                kind, descriptors, _, _ = socket.recv_fds(self._mailboxes[place][1], 1, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError:  # it is empty
                return
            for descriptor in descriptors:
                yield socket.socket(fileno=descriptor), kind == _KEPT

    def _is_able(self, place: int) -> bool:
        pid, _, seen = self._numbers[place * _CELLS : (place + 1) * _CELLS]
        return pid > 0 and time.monotonic() - seen < ABLE_SECONDS and exists(int(pid))

    def _load(self, place: int) -> int:
        return int(self._numbers[place * _CELLS + 1]) + self._waiting(place)

    def _waiting(self, place: int) -> int:
        """Count the connections in a mailbox, each of which comes with one byte."""
        answer = fcntl.ioctl(self._mailboxes[place][1], termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])


def exists(pid: int) -> bool:
    """Whether a process of this number is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
