r"""A vhost-user vsock back end (QEMU docs "Vhost-user Protocol"; virtio 1.2 section 5.10): one guest's vsock, led to unix sockets.

Guest → CID 3 port P: <vsock>/3/<P>. Guest → CID 0 port 7000: the hypervisor's service, which nobody else can reach. Host → guest: <vsock>/<cid>.sock, "CONNECT <port>\\n" answered by "OK …\\n".
Debian's vhost-device-vsock routes CID 2 alone and stalls on bursts over 32 KiB.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from nitrokit.emulation.nitro.service import PORT, GuestService
from nitrokit.emulation.nitro.streams import Switch
from nitrokit.emulation.nitro.vring import GuestMemory, Vring

_HEADER = struct.Struct("<III")
_VERSION, _REPLY, _NEED_REPLY = 0x1, 0x4, 0x8
_VERSION_1, _PROTOCOL = 1 << 32, 1 << 30
_MQ, _REPLY_ACK, _CONFIG = 1 << 0, 1 << 3, 1 << 9
_RX, _TX = 0, 1


class VsockBackend:
    """Listens on ``path`` for QEMU and serves until closed."""

    def __init__(self, path: Path, *, guest_cid: int, vsock: Path, service: GuestService) -> None:
        self._guest_cid = guest_cid
        self._memory = GuestMemory()
        self._rings = [Vring(self._memory) for _ in range(3)]
        self._selector = selectors.DefaultSelector()
        self._host_path = vsock / f"{guest_cid}.sock"
        self._vsock, self._service = vsock, service
        self._switch = Switch(guest_cid, self._rings[_RX], self._selector, self._connect_host)
        self._listener = _listen(path)
        self._host = _listen(self._host_path)
        self._wake_read, self._wake_write = os.pipe()
        self._vhost: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _connect_host(self, cid: int, port: int) -> socket.socket | None:
        """The host's end of a guest's connection; None where nobody listens."""
        if cid == 0 and port == PORT:
            ours, theirs = socket.socketpair()
            self._service.serve(theirs)
            return ours
        if cid == self._guest_cid or cid == 0:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._vsock / "3" / str(port)))
        except OSError:
            connection.close()
            return None
        return connection

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept_vhost)
        self._selector.register(self._host, selectors.EVENT_READ, self._accept_host)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        # A guest or a QEMU that breaks the protocol loses its vsock, nothing else.
        with suppress(OSError, ValueError, struct.error, IndexError):
            while True:
                for key, mask in self._selector.select():
                    if key.data is None:
                        return
                    key.data(mask)
                self._switch.flush()

    def _accept_vhost(self, _: int) -> None:
        self._vhost, _address = self._listener.accept()
        self._selector.register(self._vhost, selectors.EVENT_READ, self._message)

    def _accept_host(self, _: int) -> None:
        connection, _address = self._host.accept()
        self._switch.host_connected(connection)

    def _message(self, _: int) -> None:
        assert self._vhost is not None
        data, descriptors, _flags, _address = socket.recv_fds(self._vhost, _HEADER.size, 8)
        if len(data) < _HEADER.size:
            raise OSError("QEMU went away")
        request, flags, size = _HEADER.unpack(data)
        body = self._vhost.recv(size, socket.MSG_WAITALL) if size else b""
        answer = self._handle(request, body, descriptors)
        if answer is not None:
            self._vhost.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)
        elif flags & _NEED_REPLY:
            self._vhost.sendall(_HEADER.pack(request, _VERSION | _REPLY, 8) + bytes(8))

    def _handle(self, request: int, body: bytes, descriptors: list[int]) -> bytes | None:
        """The answer to a request that has one."""
        match request:
            case 1:  # GET_FEATURES
                return struct.pack("<Q", _VERSION_1 | _PROTOCOL)
            case 15:  # GET_PROTOCOL_FEATURES
                return struct.pack("<Q", _MQ | _REPLY_ACK | _CONFIG)
            case 17:  # GET_QUEUE_NUM
                return struct.pack("<Q", 2)
            case 24:  # GET_CONFIG: the guest's CID
                offset, size, flags = struct.unpack_from("<III", body)
                return struct.pack("<III", offset, size, flags) + (struct.pack("<Q", self._guest_cid) + bytes(size))[offset : offset + size]
            case 11:  # GET_VRING_BASE: the ring stops
                (index,) = struct.unpack_from("<I", body)
                return struct.pack("<II", index, self._stop(index))
        self._configure(request, body, descriptors)
        return None

    def _configure(self, request: int, body: bytes, descriptors: list[int]) -> None:
        match request:
            case 5:  # SET_MEM_TABLE
                (count,) = struct.unpack_from("<I", body)
                self._memory.set([struct.unpack_from("<QQQQ", body, 8 + 32 * index) for index in range(count)], descriptors)
            case 8:  # SET_VRING_NUM
                index, number = struct.unpack_from("<II", body)
                self._rings[index].size = number
            case 9:  # SET_VRING_ADDR
                index, _flags, table, used, available, _log = struct.unpack_from("<IIQQQQ", body)
                self._rings[index].set_addresses(table, used, available)
            case 10:  # SET_VRING_BASE
                index, number = struct.unpack_from("<II", body)
                self._rings[index].next_available = number
            case 12 | 13:  # SET_VRING_KICK, SET_VRING_CALL
                self._set_descriptor(request == 12, body[0], descriptors[0] if descriptors else None)
            case _:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _set_descriptor(self, is_kick: bool, index: int, descriptor: int | None) -> None:
        ring = self._rings[index]
        old = ring.kick if is_kick else ring.call
        if old is not None:
            if is_kick:
                self._selector.unregister(old)
            os.close(old)
        if is_kick:
            ring.kick = descriptor
            if descriptor is not None:
                self._selector.register(descriptor, selectors.EVENT_READ, lambda _: self._kicked(index, descriptor))
        else:
            ring.call = descriptor

    def _kicked(self, index: int, descriptor: int) -> None:
        os.read(descriptor, 8)
        if index == _TX:
            self._drain()

    def _drain(self) -> None:
        """Every packet that the guest has sent."""
        ring, count = self._rings[_TX], 0
        while ring.has_chain():
            head, readable, _ = ring.pop()
            self._switch.from_guest(b"".join(readable))
            ring.push(head, 0)
            count += 1
        if count:
            ring.notify()

    def _stop(self, index: int) -> int:
        ring = self._rings[index]
        if ring.kick is not None:
            self._selector.unregister(ring.kick)
        base = ring.next_available
        ring.close()
        return base

    def close(self) -> None:
        """End all connections."""
        os.write(self._wake_write, b"x")
        self._thread.join(timeout=5)
        self._switch.close()
        closing: list[Any] = [self._listener, self._host, self._vhost]
        for one in filter(None, closing):
            one.close()
        for ring in self._rings:
            ring.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._host_path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(64)
    return listener
