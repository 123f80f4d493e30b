"""Joining streams, thousands of pairs in one thread: what one side sends the other gets, no faster than it takes it, and an end of one direction leaves the other open."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from nitrokit.runtime.frames import accept

MAX_PAIRS = 8192
_MOST, _LEAST = 1 << 16, 1 << 12
"""Bytes that are read at once, and wait for a slow reader: large vsock packets have stalled (rust-vmm/vhost-device issue 494)."""
_BUDGET = 64 << 20
"""Bytes that wait for slow readers in all pairs together."""
_OTHER_FILES = 256
_PROBE = 60
"""Seconds between two questions of the kernel to an app that is silent."""
_READ = select.EPOLLIN | select.EPOLLRDHUP
_WRITE_OR_END = select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
"""Of a side that is not read while it must wait: that its peer has gone is told once. vsock tells it by nothing else where data are left unread (net/vmw_vsock/virtio_transport_common.c)."""
Failed = Callable[[Exception], None]


def allow_connections(pairs: int = MAX_PAIRS) -> None:
    """Raise this process's limit of open files, which is 1,024 for PID 1, as far as the kernel lets us."""
    wanted = 2 * pairs + _OTHER_FILES
    for hard in (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
            return


def notice_end(connection: socket.socket) -> None:
    """Have the kernel ask now and then whether the app is still there: one that has closed its end looks like one that sends no more, and its peer may never end (tcp(7), SO_KEEPALIVE)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        connection.setsockopt(socket.IPPROTO_TCP, option, _PROBE)


class _Side:
    """A socket of a pair. ``waiting``: what the other side sent and this one has not taken; ``ended``: nothing more is read from it; ``finished``: nothing more is sent to it.

    ``failed``: there while it is being connected, and told when that fails.
    """

    def __init__(self, connection: socket.socket, failed: Failed | None = None) -> None:
        self.connection = connection
        self.number = connection.fileno()
        self.failed = failed
        self.waiting = memoryview(b"")
        self.ended = False
        self.finish = False
        self.finished = False
        self.interest: int | None = None
        self.other: _Side = self


class Relay:
    """One thread. A pair that was joined is its own from then on, and is closed when both directions have ended."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._sides: dict[int, _Side] = {}
        self._new: deque[tuple[_Side, _Side]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        threading.Thread(target=self._run, daemon=True).start()

    def __len__(self) -> int:
        """Pairs that are joined now."""
        return len(self._sides) // 2 + len(self._new)

    def join(self, one: socket.socket, other: socket.socket, failed: Failed | None = None) -> None:
        """Copy both ways until both have ended. ``failed``: ``other`` is still being connected, and this is told when it cannot be."""
        self._new.append((_Side(one), _Side(other, failed)))
        os.eventfd_write(self._wake, 1)

    def serve(self, listener: socket.socket, connect: Callable[[], socket.socket], failed: Failed) -> None:
        """Join each connection of ``listener`` with a new one, until the listener is closed (OSError). ``connect`` begins one and does not wait for it; ``failed`` is told when it comes to nothing."""
        while True:
            accepted = accept(listener)
            try:
                if len(self) >= MAX_PAIRS:
                    raise OSError(errno.EMFILE, f"{MAX_PAIRS} connections are open")
                other = connect()
            except OSError as error:
                failed(error)
                accepted.close()
                continue
            self.join(accepted, other, failed)

    def _run(self) -> None:
        while True:
            for number, events in self._poll.poll():
                if number == self._wake:
                    os.eventfd_read(self._wake)
                elif side := self._sides.get(number):
                    self._serve(side, events)
            # Not before: an event of this round may be of a closed socket whose number a new one has.
            while self._new:
                self._add(*self._new.popleft())

    def _add(self, one: _Side, other: _Side) -> None:
        one.other, other.other = other, one
        for side in (one, other):
            side.connection.setblocking(False)
            self._sides[side.number] = side
        self._serve(one, 0)

    def _serve(self, side: _Side, events: int) -> None:
        """A failure, the kernel's want of memory among them, ends this pair and no other: there is one thread for all."""
        try:
            self._advance(side, events)
        except (OSError, MemoryError) as error:
            if side.failed is not None:  # said first: who sees the end finds the line
                side.failed(error)
            self._close(side)

    def _advance(self, side: _Side, events: int) -> None:
        if events & select.EPOLLERR or side.failed is not None:
            _require_sound(side.connection)
            side.failed = None
        if events & (select.EPOLLOUT | select.EPOLLRDHUP):
            self._write(side)
        if events & select.EPOLLHUP and side.ended:
            _give_up(side)
        elif events & (_READ | select.EPOLLHUP):
            self._read(side)
        if side.finished and side.other.finished:
            self._close(side)
            return
        self._watch(side)
        self._watch(side.other)

    def _read(self, side: _Side) -> None:
        if side.ended or side.other.waiting:
            return
        try:
            data = side.connection.recv(max(_LEAST, min(_MOST, _BUDGET // len(self._sides))))
        except BlockingIOError:
            return
        if not data:
            side.ended = True
            side.other.finish = True
            self._write(side)
        if not side.other.finished:  # else nobody takes it, and its sender must not wait for that
            side.other.waiting = memoryview(data)
            self._write(side.other)

    def _write(self, side: _Side) -> None:
        """Hand over what waits; when all is out and the sender has ended, end this direction too. A peer that has ended takes more, or has gone: only this tells."""
        if side.failed is not None:
            return
        if side.waiting:
            try:
                side.waiting = side.waiting[side.connection.send(side.waiting) :]
            except BlockingIOError:
                return
            except OSError:
                _give_up(side)
        if side.finish and not side.waiting and not side.finished:
            side.finished = True
            with suppress(OSError):
                side.connection.shutdown(socket.SHUT_WR)

    def _watch(self, side: _Side) -> None:
        """Ask for the events that this side can do something with. The kernel tells an end in both directions unasked, again and again: a side that must wait, or is done, is not watched at all."""
        reads = not (side.ended or side.failed or side.other.waiting)
        interest: int | None = _READ if reads else 0
        if side.failed or (side.waiting and reads):
            interest = (interest or 0) | select.EPOLLOUT
        elif side.waiting:
            interest = _WRITE_OR_END
        elif not reads and (side.other.waiting or (side.ended and side.finished)):
            interest = None
        if interest == side.interest or side.number not in self._sides:
            return
        if interest is None:
            self._poll.unregister(side.number)
        elif side.interest is None:
            self._poll.register(side.number, interest)
        else:
            self._poll.modify(side.number, interest)
        side.interest = interest

    def _close(self, side: _Side) -> None:
        for one in (side, side.other):
            if self._sides.pop(one.number, None) is not None:
                if one.interest is not None:
                    with suppress(OSError):
                        self._poll.unregister(one.number)
                one.connection.close()


def _require_sound(connection: socket.socket) -> None:
    """Raises the OSError that a socket holds."""
    if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(number, os.strerror(number))


def _give_up(side: _Side) -> None:
    """Nobody takes what goes to this side. What it sent before is still handed over."""
    side.waiting = memoryview(b"")
    side.finished = True
