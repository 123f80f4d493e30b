"""The work-alike of nitro-cli: its commands, flags, JSON on stdout, text on stderr, exit codes and E-codes (aws-nitro-enclaves-cli:src/common)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from nitrokit.emulation.nitro.control import call
from nitrokit.emulation.nitro.error import NitroError

_HELP = "https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html"
_CONFIG_KEYS = ("enclave_name", "cpu_count", "cpu_ids", "memory_mib", "eif_path", "enclave_cid", "debug_mode", "attach_console")
_SUFFIXES = {"M": 1, "G": 1 << 10, "T": 1 << 20}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NitroError("E03" if "invalid" in message else "E01", message)


def main(arguments: list[str]) -> int:
    """Run one command; 0, or 1 with ``[ Exx ]`` on stderr."""
    try:
        options = _parser().parse_args(arguments)
        result = _COMMANDS[options.command](options)
    except NitroError as error:
        print(f"[ {error.code} ] {error}\n\nFor more details, please visit {_HELP}#{error.code}", file=sys.stderr)
        return 1
    if result is not None:
        print(json.dumps(result, indent=2))
    return 0


def _parser() -> _Parser:
    parser = _Parser(prog="nitro-cli")
    parser.add_argument("--version", action="version", version="Nitro CLI 1.5.0 (nitrokit emulation)")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run-enclave")
    for flag in ("--eif-path", "--memory", "--enclave-name", "--config"):
        run.add_argument(flag)
    for flag in ("--cpu-count", "--enclave-cid"):
        run.add_argument(flag, type=int)
    run.add_argument("--cpu-ids", type=int, nargs="+")
    run.add_argument("--debug-mode", action="store_true")
    run.add_argument("--attach-console", action="store_true")
    build = commands.add_parser("build-enclave")
    for flag in (
        "--docker-uri",
        "--docker-dir",
        "--output-file",
        "--signing-certificate",
        "--private-key",
        "--name",
        "--version",
        "--metadata",
    ):
        build.add_argument(flag)
    commands.add_parser("describe-enclaves").add_argument("--metadata", action="store_true")
    commands.add_parser("describe-eif").add_argument("--eif-path", required=True)
    pcr = commands.add_parser("pcr").add_mutually_exclusive_group(required=True)
    pcr.add_argument("--input")
    pcr.add_argument("--signing-certificate")
    console = commands.add_parser("console")
    terminate = commands.add_parser("terminate-enclave").add_mutually_exclusive_group(required=True)
    terminate.add_argument("--all", action="store_true")
    for command in (console, terminate):
        command.add_argument("--enclave-id")
        command.add_argument("--enclave-name")
    return parser


def _run(options: argparse.Namespace) -> Any:
    if options.config:
        _apply_config(options)
    if not options.eif_path:
        raise NitroError("E01", "Missing mandatory argument: --eif-path")
    if options.memory is None:
        raise NitroError("E01", "Missing mandatory argument: --memory")
    if (options.cpu_count is None) == (options.cpu_ids is None):
        raise NitroError("E02", "exactly one of --cpu-count and --cpu-ids is needed")
    path = Path(options.eif_path)
    request = {
        "op": "run-enclave",
        "cpu_count": options.cpu_count or len(options.cpu_ids),
        "memory_mib": _memory(str(options.memory)),
        "cid": options.enclave_cid,
        "name": options.enclave_name or path.stem,
        "debug": options.debug_mode or options.attach_console,
    }
    print("Start allocating memory...", file=sys.stderr)
    with _open(path) as file:
        result = call(request, file.fileno())
    print(
        f"Started enclave with enclave-cid: {result['EnclaveCID']}, memory: {result['MemoryMiB']} MiB, cpu-ids: {result['CPUIDs']}",
        file=sys.stderr,
    )
    return result


def _apply_config(options: argparse.Namespace) -> None:
    try:
        config = json.loads(Path(options.config).read_text())
    except (OSError, ValueError) as error:
        raise NitroError("E07", f"Read from disk failure: {error}") from error
    # The real one ignores keys that it does not know, silently.
    names = {"memory_mib": "memory"}
    for key in _CONFIG_KEYS:
        if key in config:
            setattr(options, names.get(key, key), config[key])


def _memory(text: str) -> int:
    number, factor = (text[:-1], _SUFFIXES[text[-1]]) if text[-1:] in _SUFFIXES else (text, 1)
    if not number.isdigit():
        raise NitroError("E47", f"Integer parsing error: {text!r} is not an amount of memory")
    return int(number) * factor


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise NitroError("E19", f"File operation failure: {error}") from error


def _build(options: argparse.Namespace) -> Any:
    if not options.docker_uri or not options.output_file:
        raise NitroError("E01", "Missing mandatory argument: --docker-uri and --output-file")
    raise NitroError(
        "E48",
        "EIF building error: there is no Docker engine under this emulation; build with `nitrokit build`, which gives the same measurements everywhere",
    )


def _describe_eif(options: argparse.Namespace) -> Any:
    from nitrokit.core.eif import EifError, read_eif

    with _open(Path(options.eif_path)) as file:
        try:
            return read_eif(file).describe()
        except EifError as error:
            raise NitroError("E35", f"EIF parsing error: {error}") from error


def _pcr(options: argparse.Namespace) -> Any:
    from nitrokit.core.measurements import digest

    if options.input:
        with _open(Path(options.input)) as file:
            return {"PCR": digest([file.read()]).hex()}
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    with _open(Path(options.signing_certificate)) as file:
        try:
            certificate = x509.load_pem_x509_certificate(file.read())
        except ValueError as error:
            raise NitroError("E59", f"not a certificate: {error}") from error
    return {"PCR8": digest([certificate.public_bytes(Encoding.DER)]).hex()}


def _console(options: argparse.Namespace) -> Any:
    enclave_id = options.enclave_id or _id_of(options.enclave_name)
    print(call({"op": "console", "enclave_id": enclave_id}), end="")


def _id_of(name: str | None) -> str:
    if name is None:
        raise NitroError("E01", "Missing mandatory argument: --enclave-id or --enclave-name")
    found = [one["EnclaveID"] for one in call({"op": "describe-enclaves"}) if one["EnclaveName"] == name]
    if not found:
        raise NitroError("E11", "Socket error: no such enclave")
    return str(found[0])


def _terminate(options: argparse.Namespace) -> Any:
    ended = call({"op": "terminate-enclave", "all": options.all, "enclave_id": options.enclave_id, "name": options.enclave_name})
    return ended if options.all else ended[0]


_COMMANDS = {
    "run-enclave": _run,
    "build-enclave": _build,
    "describe-enclaves": lambda options: call({"op": "describe-enclaves", "metadata": options.metadata}),
    "describe-eif": _describe_eif,
    "pcr": _pcr,
    "console": _console,
    "terminate-enclave": _terminate,
}
