"""Joining streams, thousands of pairs in one thread: what one side sends the other gets, no faster than it takes it, and an end of one direction leaves the other open."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
from collections import deque
from contextlib import suppress

CHUNK = 1 << 16
"""Both what is read at once and what waits for a slow reader: large vsock packets have stalled (rust-vmm/vhost-device issue 494)."""
_OTHER_FILES = 256
_READ = select.EPOLLIN | select.EPOLLRDHUP


def allow_connections(pairs: int) -> None:
    """Raise this process's limit of open files, which is 1,024 for PID 1, as far as the kernel lets us."""
    wanted = 2 * pairs + _OTHER_FILES
    for hard in (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
            return


class _Side:
    """A socket of a pair. ``waiting``: what the other side sent and this one has not taken; ``ended``: its own sending has ended."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.number = connection.fileno()
        self.waiting = memoryview(b"")
        self.ended = False
        self.finish = False
        self.finished = False
        self.interest = -1
        self.other: _Side = self


class Relay:
    """One thread. A pair given to ``join`` is its own from then on, and is closed when both directions have ended."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._sides: dict[int, _Side] = {}
        self._new: deque[tuple[socket.socket, socket.socket]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        threading.Thread(target=self._run, daemon=True).start()

    def __len__(self) -> int:
        """Pairs that are joined now."""
        return len(self._sides) // 2 + len(self._new)

    def join(self, one: socket.socket, other: socket.socket) -> None:
        """Copy both ways until both have ended."""
        self._new.append((one, other))
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while True:
            for number, events in self._poll.poll():
                if number == self._wake:
                    os.eventfd_read(self._wake)
                    while self._new:
                        self._add(*self._new.popleft())
                elif side := self._sides.get(number):
                    self._serve(side, events)

    def _add(self, one: socket.socket, other: socket.socket) -> None:
        sides = _Side(one), _Side(other)
        for side, peer in zip(sides, reversed(sides), strict=True):
            side.connection.setblocking(False)
            side.other = peer
            self._sides[side.number] = side
            self._poll.register(side.number, 0)
            side.interest = 0
        for side in sides:
            self._watch(side)

    def _serve(self, side: _Side, events: int) -> None:
        try:
            if events & select.EPOLLERR:
                raise OSError(side.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "the peer is gone")
            if events & select.EPOLLOUT:
                self._write(side)
            if events & (_READ | select.EPOLLHUP) and not side.ended and not side.other.waiting:
                self._read(side)
        except BlockingIOError:
            pass
        except OSError:
            self._close(side)
            return
        if side.finished and side.other.finished:
            self._close(side)
            return
        self._watch(side)
        self._watch(side.other)

    def _read(self, side: _Side) -> None:
        data = side.connection.recv(CHUNK)
        if not data:
            side.ended = True
            side.other.finish = True
        side.other.waiting = memoryview(data)
        self._write(side.other)

    def _write(self, side: _Side) -> None:
        """Hand over what waits; when all is out and the sender has ended, end this direction too."""
        if side.waiting:
            with suppress(BlockingIOError):
                side.waiting = side.waiting[side.connection.send(side.waiting) :]
        if side.finish and not side.waiting and not side.finished:
            side.finished = True
            with suppress(OSError):
                side.connection.shutdown(socket.SHUT_WR)

    def _watch(self, side: _Side) -> None:
        interest = (0 if side.ended or side.other.waiting else _READ) | (select.EPOLLOUT if side.waiting else 0)
        if interest != side.interest and side.number in self._sides:
            side.interest = interest
            self._poll.modify(side.number, interest)

    def _close(self, side: _Side) -> None:
        for one in (side, side.other):
            if self._sides.pop(one.number, None) is not None:
                with suppress(OSError):
                    self._poll.unregister(one.number)
                one.connection.close()
