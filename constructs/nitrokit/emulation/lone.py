"""One image by itself on this machine: its app under a runner, its ways in and out on loopback, and a KMS key that it alone opens. No stack, no host agent."""

from __future__ import annotations

import functools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nitrokit.core.hugepages import enclave_memory
from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.manifest import Manifest
from nitrokit.core.measurements import Measurements
from nitrokit.emulation.interfaces import EmulationError
from nitrokit.emulation.local import LocalAws
from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.listeners import UnixListener
from nitrokit.emulation.nitro.services import forward
from nitrokit.runtime import control, frames
from nitrokit.runtime.streams import Relay

_TIMEOUT = 60.0
_PAUSE = 0.1


class LoneEnclave:
    """Started when made, and ended by ``close``. ``folder``: short and its own. ``say``: takes a line about connections that come to nothing. Raises EmulationError, SizingError, OSError."""

    def __init__(
        self, local: LocalAws, folder: Path, eif: Path, manifest: Manifest, measurements: Measurements, say: Callable[[str], None]
    ) -> None:
        self._say = say
        self.host_role, self.owner_role = local.create_role("enclave-host"), local.create_role("data-owner")
        policy = build_key_policy(
            measurements=[measurements], host_role_arn=self.host_role, account=local.account, data_owner_arns=[self.owner_role]
        )
        created = local.client("kms").create_key(Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True)
        self.key_arn = str(created["KeyMetadata"]["Arn"])
        self._relay = Relay()
        self._hypervisor = local.hypervisor(folder, self.host_role)
        self._listeners: list[UnixListener | socket.socket] = []
        try:
            for one in manifest.egress:
                self._lead(one.vsock_port, local.routes.get(f"{one.host}:{one.port}", (one.host, one.port)))
            self.enclave_id, self._cid = self._launch(eif, manifest)
            self.ingress = {one.port: self._open(one.vsock_port) for one in manifest.ingress}
        except BaseException:
            self.close()
            raise

    def _launch(self, eif: Path, manifest: Manifest) -> tuple[str, int]:
        memory = enclave_memory(eif.stat().st_size, manifest.memory_mib)
        cpus = manifest.cpu_count + manifest.cpu_count % 2  # whole cores
        try:
            self._hypervisor.allocate(cpu_count=cpus, memory_mib=memory)
            with eif.open("rb") as file:
                run = self._hypervisor.run(file, cpu_count=cpus, memory_mib=memory, cid=None, name=manifest.name, debug=False)
        except NitroError as error:
            raise EmulationError("launch", "the enclave does not start", got=f"{error} [{error.code}]") from error
        return str(run["EnclaveID"]), int(run["EnclaveCID"])

    def _lead(self, vsock_port: int, destination: tuple[str, int]) -> None:
        """As a vsock-proxy on the parent does."""
        self._listeners.append(
            UnixListener(
                self._hypervisor.vsock / "3" / str(vsock_port),
                lambda inner: threading.Thread(target=forward, args=(inner, destination, self._relay), daemon=True).start(),
            )
        )

    def _open(self, vsock_port: int) -> tuple[str, int]:
        """A free loopback address that leads to a vsock port of the enclave."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listeners.append(listener)
        connect = functools.partial(connect_to, self._hypervisor.vsock, self._cid, vsock_port)
        failed = functools.partial(self._unreachable, vsock_port)
        threading.Thread(target=self._relay.serve, args=(listener, connect, failed), daemon=True).start()
        host, port = listener.getsockname()
        return str(host), int(port)

    def _unreachable(self, vsock_port: int, error: Exception) -> None:
        self._say(f"the enclave's vsock port {vsock_port} cannot be reached: {error}")

    def lines(self) -> Iterator[str]:
        """What init and the app print, as long as the enclave runs."""
        since = 0
        while self._runs():
            try:
                answer = self._ask({"op": "logs", "since": since, "wait": 1})
            except (OSError, struct.error, frames.FrameError):  # not up yet, or gone
                time.sleep(_PAUSE)
                continue
            yield from answer["lines"]
            since = answer["next"]

    def _runs(self) -> bool:
        return any(one["EnclaveID"] == self.enclave_id for one in self._hypervisor.describe())

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with connect_to(self._hypervisor.vsock, self._cid, control.PORT) as connection:
            frames.send(connection, request)
            return frames.receive(connection)

    def close(self) -> None:
        """End the enclave, and what leads to and from it."""
        for listener in self._listeners:
            listener.close()
        self._hypervisor.close()


def connect_to(folder: Path, cid: int, port: int) -> socket.socket:
    """A connection to a vsock port of an enclave: its own unix socket, or by way of QEMU's (firecracker:docs/vsock.md). Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_TIMEOUT)
    try:
        if (direct := folder / str(cid) / str(port)).exists():
            connection.connect(str(direct))
            return connection
        connection.connect(str(folder / f"{cid}.sock"))
        connection.sendall(b"CONNECT %d\n" % port)
        line = b""
        while not line.endswith(b"\n"):
            line += frames.receive_exactly(connection, 1)
    except (OSError, frames.FrameError) as error:
        connection.close()
        raise ConnectionRefusedError(f"vsock {cid}:{port}: nobody listens") from error
    return connection
