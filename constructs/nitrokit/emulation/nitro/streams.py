"""vsock streams between one guest and unix sockets: packets, connections, credit (virtio 1.2 section 5.10.6)."""

from __future__ import annotations

import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from nitrokit.emulation.nitro.vring import Vring

# src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt
_PACKET = struct.Struct("<QQIIIHHIII")
_REQUEST, _RESPONSE, _RST, _SHUTDOWN, _RW, _CREDIT_UPDATE, _CREDIT_REQUEST = range(1, 8)
_STREAM = 1
_NO_RECEIVE, _NO_SEND = 1, 2
_PARENT = 3
_BUFFER = 1 << 18
_CHUNK = 1 << 16
_MAX_LINE = 32

Key = tuple[int, int, int]
"""(host CID, host port, guest port)"""


@dataclass
class Stream:
    """One connection. ``out``: bytes from the guest that the unix socket has not taken yet; ``sent``, ``forwarded``: counters modulo 2³² for credit."""

    key: Key
    connection: socket.socket
    established: bool = False
    out: bytearray = field(default_factory=bytearray)
    peer_alloc: int = 0
    peer_forwarded: int = 0
    sent: int = 0
    forwarded: int = 0
    reported: int = 0
    host_ended: bool = False
    guest_flags: int = 0
    interest: int = 0

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for."""
        return self.peer_alloc - ((self.sent - self.peer_forwarded) & 0xFFFFFFFF)


class Switch:
    """All streams of one guest. ``connect``: the host's end of a guest's connection, or None."""

    def __init__(
        self, guest_cid: int, receive: Vring, selector: selectors.BaseSelector, connect: Callable[[int, int], socket.socket | None]
    ) -> None:
        self._guest_cid = guest_cid
        self._ring = receive
        self._selector = selector
        self._connect = connect
        self._streams: dict[Key, Stream] = {}
        self._waiting: dict[socket.socket, bytearray] = {}
        self._control: deque[bytes] = deque()
        self._next_port = 1 << 30

    def from_guest(self, packet: bytes) -> None:
        """One packet of the guest's transmit queue."""
        source, target_cid, guest_port, host_port, length, kind, operation, flags, allocation, forwarded = _PACKET.unpack_from(packet)
        key = (target_cid, host_port, guest_port)
        stream = self._streams.get(key)
        if source != self._guest_cid or kind != _STREAM or (stream is None and operation not in (_REQUEST, _RST)):
            self._queue(key, _RST)
            return
        if stream is not None:
            stream.peer_alloc, stream.peer_forwarded = allocation, forwarded
        if operation == _REQUEST:
            self._open(key, allocation, forwarded)
        elif stream is not None:
            self._operate(stream, operation, flags, packet[_PACKET.size : _PACKET.size + length])

    def _open(self, key: Key, allocation: int, forwarded: int) -> None:
        connection = None if key in self._streams else self._connect(key[0], key[1])
        if connection is None:
            self._queue(key, _RST)
            return
        connection.setblocking(False)
        self._streams[key] = Stream(key, connection, established=True, peer_alloc=allocation, peer_forwarded=forwarded)
        self._queue(key, _RESPONSE)

    def _operate(self, stream: Stream, operation: int, flags: int, data: bytes) -> None:
        match operation:
            case 2:  # RESPONSE: the guest took the host's connection
                stream.established = True
                with suppress(OSError):
                    stream.connection.sendall(b"OK %d\n" % stream.key[1])
            case 3:  # RST
                self._drop(stream)
            case 4:  # SHUTDOWN
                stream.guest_flags |= flags
            case 5:  # RW
                stream.out += data
            case 7:  # CREDIT_REQUEST
                self._queue(stream.key, _CREDIT_UPDATE)

    def host_connected(self, connection: socket.socket) -> None:
        """A program on the host, which first says where it wants to."""
        connection.setblocking(False)
        self._waiting[connection] = bytearray()
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._read_line(connection))

    def _read_line(self, connection: socket.socket) -> None:
        line = self._waiting[connection]
        try:
            line += connection.recv(1)  # not a byte more: what follows belongs to the guest
        except OSError:
            line.clear()
        if line.endswith(b"\n") or len(line) > _MAX_LINE or not line:
            del self._waiting[connection]
            self._selector.unregister(connection)
            words = bytes(line).split()
            if len(words) == 2 and words[0] == b"CONNECT" and words[1].isdigit():
                key = (_PARENT, self._next_port, int(words[1]))
                self._next_port += 1
                self._streams[key] = Stream(key, connection)
                self._queue(key, _REQUEST)
            else:
                connection.close()

    def flush(self) -> None:
        """Move what can be moved, both ways, and ask for the events that can move more."""
        moved = self._send_control()
        for stream in list(self._streams.values()):
            self._to_host(stream)
            moved = self._to_guest(stream) or moved
            if stream.key in self._streams:
                self._watch(stream)
        moved = self._send_control() or moved
        if moved:
            self._ring.notify()

    def _to_host(self, stream: Stream) -> None:
        """What the guest sent, to the unix socket; then the end, when the guest has said so."""
        try:
            while stream.out:
                count = stream.connection.send(stream.out[:_CHUNK])
                del stream.out[:count]
                stream.forwarded = (stream.forwarded + count) & 0xFFFFFFFF
        except BlockingIOError:
            pass
        except OSError:
            self._reset(stream)
            return
        if (stream.forwarded - stream.reported) & 0xFFFFFFFF >= _BUFFER // 2:
            self._queue(stream.key, _CREDIT_UPDATE)
        if not stream.out and stream.guest_flags & _NO_SEND:
            with suppress(OSError):
                stream.connection.shutdown(socket.SHUT_WR)
            if stream.guest_flags & _NO_RECEIVE:
                self._reset(stream)

    def _to_guest(self, stream: Stream) -> bool:
        """What the host sent, to the guest, as far as its credit and its buffers go."""
        moved = False
        while (
            stream.key in self._streams
            and stream.established
            and not stream.host_ended
            and stream.credit > 0
            and not self._control
            and self._ring.has_chain()
        ):
            try:
                data = stream.connection.recv(min(stream.credit, _CHUNK, self._room()))
            except BlockingIOError:
                break
            except OSError:
                self._reset(stream)
                break
            if not data:
                stream.host_ended = True
                self._queue(stream.key, _SHUTDOWN, _NO_SEND)
                break
            self._write(self._packet(stream.key, _RW, len(data)) + data)
            stream.sent = (stream.sent + len(data)) & 0xFFFFFFFF
            moved = True
        return moved

    def _room(self) -> int:
        """The payload that the guest's next buffer takes: they are smaller than 4 KiB."""
        before = self._ring.next_available
        _, _, writable = self._ring.pop()
        self._ring.next_available = before
        return max(sum(map(len, writable)) - _PACKET.size, 1)

    def _watch(self, stream: Stream) -> None:
        events = 0
        if stream.established and not stream.host_ended and stream.credit > 0 and self._ring.has_chain():
            events |= selectors.EVENT_READ
        if stream.out:
            events |= selectors.EVENT_WRITE
        if events == stream.interest:
            return
        if stream.interest and events:
            self._selector.modify(stream.connection, events, lambda _: None)
        elif events:
            self._selector.register(stream.connection, events, lambda _: None)
        else:
            self._selector.unregister(stream.connection)
        stream.interest = events

    def _packet(self, key: Key, operation: int, length: int = 0, flags: int = 0) -> bytes:
        stream = self._streams.get(key)
        forwarded = 0
        if stream is not None:
            forwarded = stream.reported = stream.forwarded
        return _PACKET.pack(key[0], self._guest_cid, key[1], key[2], length, _STREAM, operation, flags, _BUFFER, forwarded)

    def _queue(self, key: Key, operation: int, flags: int = 0) -> None:
        self._control.append(self._packet(key, operation, 0, flags))

    def _send_control(self) -> bool:
        moved = False
        while self._control and self._ring.has_chain():
            self._write(self._control.popleft())
            moved = True
        return moved

    def _write(self, packet: bytes) -> None:
        head, _, writable = self._ring.pop()
        at = 0
        for buffer in writable:
            part = packet[at : at + len(buffer)]
            buffer[: len(part)] = part
            at += len(part)
        self._ring.push(head, at)

    def _reset(self, stream: Stream) -> None:
        self._queue(stream.key, _RST)
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """Forget a stream; what the guest sent before its end has been handed over, or nobody takes it."""
        if self._streams.pop(stream.key, None) is None:
            return
        if stream.out:
            with suppress(OSError):
                stream.connection.setblocking(True)
                stream.connection.settimeout(1)
                stream.connection.sendall(stream.out)
        if stream.interest:
            self._selector.unregister(stream.connection)
        stream.connection.close()

    def close(self) -> None:
        for stream in list(self._streams.values()):
            stream.out.clear()
            self._drop(stream)
        for connection in self._waiting:
            connection.close()
