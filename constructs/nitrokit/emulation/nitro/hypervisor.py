"""The Nitro hypervisor and enclave driver of one emulated parent: the pool, launches, the list, ends. It lives outside the parent's sandbox.

Rules and codes: aws-nitro-enclaves-cli:src/enclave_proc/resource_manager.rs, src/common/document_errors.rs.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from nitrokit.core.eif import Eif, EifError, read_eif
from nitrokit.core.measurements import HASH_ALGORITHM, Measurements
from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.nsm import EmulatedNsm
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.emulation.nitro.runners import Launch, Machine, Runner
from nitrokit.emulation.nitro.service import GuestService

MIB = 1 << 20
EIF_RATIO = 4
MIN_MEMORY_MIB = 64
MAX_ENCLAVES = 4
HEARTBEAT_PORT, HEARTBEAT = 9000, b"\xb7"
BOOT_TIMEOUT = 180.0  # 90 s for each started 6 GiB of EIF, and 90 s for each started 100 GiB of memory
_RESERVED_CIDS = (0, 1, 2, 3, 0xFFFFFFFF)


@dataclass
class Enclave:
    """A launched enclave."""

    enclave_id: str
    name: str
    cid: int
    cpu_ids: list[int]
    memory_mib: int
    debug: bool
    measurements: Measurements
    machine: Machine
    folder: Path

    def describe(self) -> dict[str, Any]:
        """As run-enclave prints it (nitro-cli:src/common/json_output.rs)."""
        return {
            "EnclaveName": self.name, "EnclaveID": self.enclave_id, "ProcessID": self.machine.pid(), "EnclaveCID": self.cid, "NumberOfCPUs": len(self.cpu_ids),
            "CPUIDs": self.cpu_ids, "MemoryMiB": self.memory_mib,
        }  # fmt: skip


class Hypervisor:
    """One parent's hypervisor. All public methods raise NitroError."""

    def __init__(
        self,
        folder: Path,
        *,
        instance_id: str,
        role_arn: str | None,
        pki: EmulatedPki,
        tls_authorities: str,
        runner: Runner,
        now: Callable[[], datetime],
    ) -> None:
        self._folder = folder
        self.vsock = folder / "vsock"
        (self.vsock / "3").mkdir(parents=True)
        self.parameters = folder / "parameters"
        self.parameters.mkdir()
        (self.parameters / "ne_cpus").write_text("\n")
        self.huge_pages = folder / "hugepages"
        self._reserve(0)
        self._instance_id = instance_id
        self._role_arn = role_arn
        self._pki = pki
        self._tls_authorities = tls_authorities
        self._runner = runner
        self._now = now
        self._lock = threading.RLock()
        self._pool_cpus: list[int] = []
        self._pool_memory_mib = 0
        self._enclaves: dict[str, Enclave] = {}
        self._ended: list[str] = []

    def allocate(self, *, cpu_count: int, memory_mib: int) -> None:
        """The allocator service: reserve whole cores (CPU 0 and its sibling stay with the parent) and memory. Refused while an enclave runs."""
        with self._lock:
            if self._running():
                raise NitroError("E00", "cannot change the pool while an enclave is running")
            if cpu_count <= 0 or cpu_count % 2:
                raise NitroError("E20", f"cpu_count must be a positive multiple of the threads per core (2), got {cpu_count}")
            self._pool_cpus = list(range(2, 2 + cpu_count))
            self._pool_memory_mib = -(-memory_mib // 2) * 2
            (self.parameters / "ne_cpus").write_text(",".join(map(str, self._pool_cpus)) + "\n")
            self._reserve(self._pool_memory_mib)

    def _reserve(self, memory_mib: int) -> None:
        """Huge pages, the largest first, as the driver's host shows them below /sys/kernel/mm/hugepages."""
        for kib, count in ((1 << 20, memory_mib // 1024), (2048, memory_mib % 1024 // 2)):
            path = self.huge_pages / f"hugepages-{kib}kB" / "nr_hugepages"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{count}\n")

    def run(self, data_file: Any, *, cpu_count: int, memory_mib: int, cid: int | None, name: str, debug: bool) -> dict[str, Any]:
        """Launch the EIF in the open file ``data_file``, wait for its heartbeat and return run-enclave's JSON."""
        folder = self._folder / f"e{secrets.token_hex(3)}"
        folder.mkdir()
        try:
            return self._launch(folder, data_file, cpu_count, memory_mib, cid, name, debug)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _launch(
        self, folder: Path, data_file: Any, cpu_count: int, memory_mib: int, cid: int | None, name: str, debug: bool
    ) -> dict[str, Any]:
        copy = folder / "image.eif"
        with copy.open("wb") as target:
            shutil.copyfileobj(data_file, target)
        with copy.open("rb") as file:
            return self._start(folder, copy, self._read(file), cpu_count, memory_mib, cid, name, debug)

    def _start(
        self, folder: Path, copy: Path, eif: Eif, cpu_count: int, memory_mib: int, cid: int | None, name: str, debug: bool
    ) -> dict[str, Any]:
        with self._lock:
            cpu_ids = self._check(eif.size, cpu_count, memory_mib)
            cid = self._cid(cid)
            heartbeat = self._heartbeat_listener()
            enclave_id = f"{self._instance_id}-enc{secrets.token_hex(8)}"
            measurements = eif.measurements
            nsm = EmulatedNsm(
                module_id=enclave_id, measurements=measurements, role_arn=self._role_arn, debug=debug, pki=self._pki, now=self._now
            )
            service = GuestService(nsm, self._tls_authorities)
            launch = Launch(folder, copy, eif, enclave_id, cid, cpu_count, memory_mib, self._role_arn, self.vsock, service)
            try:
                machine = self._runner.start(launch)
            except BaseException:
                heartbeat.close()
                (self.vsock / "3" / str(HEARTBEAT_PORT)).unlink(missing_ok=True)
                raise
            enclave = Enclave(enclave_id, name, cid, cpu_ids, memory_mib, debug, measurements, machine, folder)
            self._enclaves[enclave_id] = enclave
        try:
            self._await_heartbeat(heartbeat, machine)
        except NitroError:
            self._end(enclave)
            raise
        finally:
            heartbeat.close()
            (self.vsock / "3" / str(HEARTBEAT_PORT)).unlink(missing_ok=True)
        return enclave.describe()

    def _read(self, file: BinaryIO) -> Eif:
        try:
            eif = read_eif(file)
        except EifError as error:
            raise NitroError("E35", f"EIF parsing error: {error}") from error
        signature = eif.signature
        if signature is not None and not (signature.holds(eif.measurements.pcr0) and signature.valid_at(self._now())):
            raise NitroError("E59", "EIF signature checker error: the signature does not hold, or its certificate is not valid now")
        return eif

    def _check(self, size: int, cpu_count: int, memory_mib: int) -> list[int]:
        needed = -(-size // MIB) * EIF_RATIO
        if memory_mib < max(needed, MIN_MEMORY_MIB):
            raise NitroError(
                "E26", f"At least {max(needed, MIN_MEMORY_MIB)} MB must be allocated (which is {EIF_RATIO} times the EIF file size)"
            )
        running = self._running()
        if len(running) >= MAX_ENCLAVES:
            raise NitroError("E39", f"at most {MAX_ENCLAVES} enclaves run on one parent")
        if not self._pool_cpus:
            raise NitroError(
                "E19", "File operation failure: /sys/module/nitro_enclaves/parameters/ne_cpus is empty: the allocator has not run"
            )
        free = [cpu for cpu in self._pool_cpus if all(cpu not in one.cpu_ids for one in running)]
        if cpu_count <= 0 or cpu_count % 2:
            raise NitroError("E20", f"Invalid CPU configuration: {cpu_count} is not a whole number of cores")
        if cpu_count > len(free):
            raise NitroError(
                "E22",
                f"Insufficient CPUs available in the pool. User provided `cpu-count` is {cpu_count}, which is more than the configured CPU pool size ({len(free)})",
            )
        free_memory = self._pool_memory_mib - sum(one.memory_mib for one in running)
        if memory_mib > free_memory:
            raise NitroError("E27", f"Insufficient memory available. Requested {memory_mib} MB, available {free_memory} MB")
        return free[:cpu_count]

    def _cid(self, wanted: int | None) -> int:
        used = {one.cid for one in self._running()}
        if wanted:
            if wanted in _RESERVED_CIDS or wanted < 4:
                raise NitroError("E05", f"CID {wanted} is reserved")
            if wanted in used:
                raise NitroError("E39", f"CID {wanted} is in use")
            return wanted
        return next(cid for cid in range(16, 1 << 16) if cid not in used)

    def _heartbeat_listener(self) -> socket.socket:
        """Each launch binds the parent's port 9000: a second one at the same time fails, as it does on real hosts."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = self.vsock / "3" / str(HEARTBEAT_PORT)
        try:
            listener.bind(str(path))
        except OSError as error:
            listener.close()
            raise NitroError("E36", "Enclave boot failure: vsock port 9000 is taken by another launch") from error
        path.chmod(0o666)
        listener.listen(1)
        listener.settimeout(0.2)
        return listener

    def _await_heartbeat(self, listener: socket.socket, machine: Machine) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < deadline:
            if not machine.alive():
                tail = machine.console.read_bytes()[-400:].decode(errors="replace").strip()
                raise NitroError("E36", f"Enclave boot failure: it ended before its heartbeat. {tail}")
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    if connection.recv(1) == HEARTBEAT:
                        connection.sendall(HEARTBEAT)
                        return
        raise NitroError("E36", f"Enclave boot failure: no heartbeat in {BOOT_TIMEOUT:.0f} s")

    def describe(self, *, metadata: bool = False) -> list[dict[str, Any]]:
        """As describe-enclaves prints it. It shows the build's PCRs even for a debug enclave (nitro-cli issue 695): rely on Flags."""
        del metadata
        with self._lock:
            return [
                {
                    **one.describe(),
                    "State": "RUNNING",
                    "Flags": "DEBUG_MODE" if one.debug else "NONE",
                    "Measurements": {
                        "HashAlgorithm": HASH_ALGORITHM,
                        **{f"PCR{index}": value.hex() for index, value in one.measurements.pcrs().items()},
                    },
                }
                for one in self._running()
            ]

    def terminate(self, *, enclave_id: str | None = None, name: str | None = None, everything: bool = False) -> list[dict[str, Any]]:
        """End one enclave by id or name, or all."""
        with self._lock:
            chosen = [
                one for one in self._running() if everything or one.enclave_id == enclave_id or (name is not None and one.name == name)
            ]
            if not chosen and not everything:
                raise NitroError("E11", "Socket error: no such enclave")
            for one in chosen:
                self._end(one)
            return [{"EnclaveName": one.name, "EnclaveID": one.enclave_id, "Terminated": True} for one in chosen]

    def console(self, enclave_id: str) -> str:
        """What the console showed so far. Debug mode only."""
        with self._lock:
            one = self._enclaves.get(enclave_id)
            if one is None or not one.machine.alive():
                raise NitroError("E11", "Socket error: no such enclave")
            if not one.debug:
                raise NitroError("E44", "Enclave console connection failure: the enclave does not run in debug mode")
            return one.machine.console.read_text(errors="replace")

    def consoles(self) -> str:
        """For the emulation's own diagnosis: the end of every console, ended enclaves' too."""
        with self._lock:
            return "\n".join([*self._ended, *map(_console_tail, self._enclaves.values())])

    def _running(self) -> list[Enclave]:
        for one in [one for one in self._enclaves.values() if not one.machine.alive()]:
            self._end(one)
        return list(self._enclaves.values())

    def _end(self, enclave: Enclave) -> None:
        enclave.machine.stop()
        self._ended = [*self._ended, _console_tail(enclave)][-8:]
        self._enclaves.pop(enclave.enclave_id, None)
        shutil.rmtree(enclave.folder, ignore_errors=True)

    def close(self) -> None:
        """End everything."""
        with self._lock:
            for one in list(self._enclaves.values()):
                self._end(one)


def _console_tail(enclave: Enclave) -> str:
    text = enclave.machine.console.read_text(errors="replace") if enclave.machine.console.exists() else ""
    return f"{enclave.name} ({enclave.enclave_id}): {text[-1500:].strip()}"
