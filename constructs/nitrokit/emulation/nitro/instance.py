"""An emulated parent instance: a sandbox in which the deployed scripts and the host agent run and find what they would find on Amazon Linux, and its hardware outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import nitrokit
from nitrokit.emulation.interfaces import EmulationError, InstanceDescription, ScriptResult
from nitrokit.emulation.nitro.control import SOCKET_VARIABLE, ControlServer, Operation
from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.hypervisor import Hypervisor
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.emulation.nitro.runners import Runner
from nitrokit.emulation.nitro.services import NOTIFY_FOLDER, Services

_COMMANDS = ("nitro-cli", "systemctl", "journalctl", "dnf")
_ETC = (
    "passwd",
    "group",
    "nsswitch.conf",
    "hosts",
    "resolv.conf",
    "ssl",
    "ca-certificates",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "mime.types",
)
_HARDWARE = "/run/nitrokit-hardware"


class EmulatedInstance:
    """One parent. Its files lie in ``folder``; everything ends with ``close``."""

    def __init__(
        self,
        description: InstanceDescription,
        folder: Path,
        *,
        pki: EmulatedPki,
        tls_authorities: str,
        runner: Runner,
        now: Callable[[], datetime],
    ) -> None:
        self._description = description
        self._folder = folder
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise EmulationError("no-bwrap", "bubblewrap is not installed", expected="bwrap on PATH", do="apt-get install bubblewrap")
        self._bwrap = bwrap
        for part in (
            "hw",
            "hw/units",
            "opt",
            "var/lib",
            "var/log",
            "tmp",
            "etc/nitro_enclaves",
            "etc/nitrokit",
            "etc/systemd/system",
            "bin",
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
        self.hypervisor = Hypervisor(
            folder / "hw",
            instance_id=description.instance_id,
            role_arn=description.role_arn,
            pki=pki,
            tls_authorities=tls_authorities,
            runner=runner,
            now=now,
        )
        self._services = Services(folder / "etc", self.hypervisor, description.routes, self._spawn, folder / "hw" / "units")
        self._control = ControlServer(folder / "hw" / "control", self._operations())
        self._write_commands()

    def _operations(self) -> dict[str, Operation]:
        hypervisor = self.hypervisor
        if not self._description.enclave_enabled:

            def refuse(*_: object) -> None:
                raise NitroError(
                    "E19", "File operation failure: /dev/nitro_enclaves: no such file (the instance was launched without EnclaveOptions)"
                )

            return {
                "run-enclave": refuse,
                "describe-enclaves": lambda request, file: [],
                "systemctl": refuse,
                **{name: operation for name, operation in self._host_operations().items() if name != "systemctl"},
            }
        return {
            "run-enclave": lambda request, descriptor: hypervisor.run(
                os.fdopen(os.dup(descriptor), "rb"), **{key: request[key] for key in ("cpu_count", "memory_mib", "cid", "name", "debug")}
            ),
            "describe-enclaves": lambda request, _: hypervisor.describe(metadata=bool(request.get("metadata"))),
            "terminate-enclave": lambda request, _: hypervisor.terminate(
                enclave_id=request["enclave_id"], name=request["name"], everything=request["all"]
            ),
            "console": lambda request, _: hypervisor.console(request["enclave_id"]),
            **self._host_operations(),
        }

    def _host_operations(self) -> dict[str, Operation]:
        services = self._services
        return {
            "systemctl": lambda request, _: services.systemctl(request["arguments"]),
            "journalctl": lambda request, _: services.journalctl(request["arguments"]),
            "dnf": lambda request, _: services.dnf(request["arguments"]),
        }

    def _write_commands(self) -> None:
        source = Path(nitrokit.__file__).parents[1]
        for name in _COMMANDS:
            self._write_command(name, f'PYTHONPATH="{source}" exec "{sys.executable}" -m nitrokit.emulation.nitro.shim {name} "$@"')
        self._write_command("aws", f'exec "{sys.executable}" -m awscli "$@"')
        self._write_command("vsock-proxy", 'echo "vsock-proxy runs as a systemd unit here" >&2; exit 1')

    def _write_command(self, name: str, line: str) -> None:
        path = self._folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def run_script(self, script: str, environment: Mapping[str, str], timeout: float) -> ScriptResult:
        """Run a shell script as the SSM agent would, as root. After ``timeout`` seconds it and all its children are killed (exit code 124)."""
        with tempfile.NamedTemporaryFile(
            "w", dir=self._folder / "tmp", prefix="ssm-", suffix=".sh"
        ) as file:  # commands may run side by side
            file.write(script)
            file.flush()
            return self._run([*self._sandbox(), "/bin/sh", f"/tmp/{Path(file.name).name}"], environment, timeout)

    def _run(self, command: list[str], environment: Mapping[str, str], timeout: float) -> ScriptResult:
        process = subprocess.Popen(
            command,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()  # bwrap is the parent of a pid namespace: all in it die with it
            stdout, stderr = process.communicate()
            return ScriptResult(
                124, stdout.decode(errors="replace"), stderr.decode(errors="replace") + f"\ntimed out after {timeout:.0f} s"
            )
        return ScriptResult(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def _spawn(self, command: list[str], environment: Mapping[str, str], output: int) -> tuple[subprocess.Popen[bytes], int]:
        """A unit's program as the first process of its sandbox: signals must reach it, not the sandbox."""
        told, tell = os.pipe()
        with os.fdopen(told) as answer:
            process = subprocess.Popen(
                [*self._sandbox(), "--as-pid-1", "--info-fd", str(tell), *command],
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(tell,),
            )
            os.close(tell)
            return process, int(json.loads(answer.read())["child-pid"])

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        shims = Path(__file__).parent / "shims"
        return {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self._description.environment,
            **environment,
            "PATH": f"{_HARDWARE}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(shims),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NITROKIT_VSOCK_DIR": f"{_HARDWARE}/vsock",
            SOCKET_VARIABLE: f"{_HARDWARE}/control",
        }

    def _sandbox(self) -> list[str]:
        folder = self._folder
        command = [
            self._bwrap,
            "--die-with-parent",
            "--unshare-user",
            "--unshare-pid",
            "--unshare-uts",
            "--unshare-ipc",
            "--uid",
            "0",
            "--gid",
            "0",
            "--hostname",
            self._description.instance_id,
        ]
        command += [
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/sys",
            "--tmpfs",
            "/var",
            "--tmpfs",
            "/etc",
            "--tmpfs",
            "/root",
        ]
        for name in _ETC:
            if (Path("/etc") / name).exists():
                command += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
        binds = {
            "etc/nitro_enclaves": "/etc/nitro_enclaves", "etc/nitrokit": "/etc/nitrokit", "etc/systemd/system": "/etc/systemd/system", "opt": "/opt", "var/lib": "/var/lib", "var/log": "/var/log",
            "tmp": "/tmp", "hw/vsock": f"{_HARDWARE}/vsock", "hw/control": f"{_HARDWARE}/control", "hw/units": NOTIFY_FOLDER,
        }  # fmt: skip
        for inside, outside in binds.items():
            command += ["--bind", str(folder / inside), outside]
        command += [
            "--ro-bind",
            str(folder / "bin"),
            f"{_HARDWARE}/bin",
            "--ro-bind",
            str(folder / "hw" / "parameters"),
            "/sys/module/nitro_enclaves/parameters",
            "--ro-bind",
            str(folder / "hw" / "hugepages"),
            "/sys/kernel/mm/hugepages",
        ]
        # The programs behind the work-alikes, wherever they are installed; a folder hidden by the binds above shows again.
        for path in sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(nitrokit.__file__).parents[1])}):
            if path not in ("/", "/usr"):
                command += ["--ro-bind", path, path]
        return [*command, "--chdir", "/"]

    def close(self) -> None:
        self._services.close()
        self._control.close()
        self.hypervisor.close()
