"""The agent's command line: one JSON line on stdout for each command, errors on stderr with cause and remedy, exit code 1."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from nitrokit._version import __version__
from nitrokit.core.nonces import enclave_nonce
from nitrokit.errors import NitrokitError
from nitrokit.host import config as configuration
from nitrokit.host import enclave, pool, steps
from nitrokit.host.commands import nitro_cli
from nitrokit.host.locking import exclusive

_APP_LISTENS_WITHIN = 60.0
_UP_WITHIN = 120.0


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments)
    try:
        result = _dispatch(options)
    except NitrokitError as error:
        print(f"nitrokit-agent {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # whoever reads this is an operator, not a developer
        print(f"nitrokit-agent {options.command}: {type(error).__name__}: {error} [agent/internal]", file=sys.stderr)
        return 3
    print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nitrokit-agent", description="Runs enclaves on this parent instance.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("install", "allocate", "image", "verify", "run", "health", "wait", "attest", "logs", "ask", "terminate"):
        command = commands.add_parser(name)
        command.add_argument("--enclave", required=True)
        if name == "verify":
            command.add_argument("--eif", type=Path, help="another image than the deployed one")
        if name == "attest":
            command.add_argument("--nonce", required=True, help="base64")
            command.add_argument(
                "--nonce-for", choices=("caller", "instance"), default="caller", help="instance: the enclave's own, derived"
            )
        if name == "logs":
            command.add_argument("--since", type=int, default=0, help="number of the first line wanted: `next` of the last answer")
        if name == "ask":
            command.add_argument("--port", type=int, default=5000)
            command.add_argument("--with-credentials", action="store_true", help="add the instance role's credentials to the request")
    return parser


def _dispatch(options: argparse.Namespace) -> Dict[str, Any]:
    name = configuration.check_name(options.enclave)
    if options.command == "wait":
        return enclave.wait_until_up(name, _UP_WITHIN)
    if options.command == "attest":
        return _attest(name, options)
    if options.command == "logs":
        return enclave.logs(name, options.since)
    if options.command == "ask":
        return _ask(name, options)
    if options.command == "health":
        return steps.health(configuration.load(name))
    with exclusive():
        return _change(name, options)


def _change(name: str, options: argparse.Namespace) -> Dict[str, Any]:
    """The commands that change the parent, under its lock."""
    if options.command == "install":
        return steps.install(name, _config_variable())
    if options.command == "terminate":
        return {"ended": nitro_cli(["terminate-enclave", "--enclave-name", name], "ending the enclave")}
    config = configuration.load(name)
    if options.command == "verify":
        return steps.verify(config, options.eif)
    step = {"allocate": pool.allocate, "image": steps.image, "run": steps.run_enclave}[options.command]
    return step(config)


def _config_variable() -> str:
    """The document's parameter, as an environment variable: never part of a command line."""
    try:
        return os.environ["SSM_Config"]
    except KeyError as error:
        raise configuration.AgentError(
            "old-ssm-agent",
            "the configuration did not arrive",
            expected="SSM_Config in the environment",
            do="update the SSM Agent to 3.3.2746.0 or newer (parameters by interpolationType ENV_VAR)",
        ) from error


def _attest(name: str, options: argparse.Namespace) -> Dict[str, Any]:
    nonce = options.nonce
    if options.nonce_for == "instance":
        nonce = base64.b64encode(enclave_nonce(*_nonce_base(nonce), name)).decode()
    found = enclave.find(name)
    answer = enclave.ask(found["EnclaveCID"], enclave.CONTROL_PORT, {"op": "attest", "nonce": nonce})
    return {**answer, "enclave_id": found["EnclaveID"]}


def _nonce_base(text: str) -> Tuple[bytes, str]:
    """The base that a whole fleet was given, and who we are among it."""
    try:
        return base64.b64decode(text, validate=True), os.environ["AWS_SSM_INSTANCE_ID"]
    except ValueError as error:
        raise configuration.AgentError("nonce", "the nonce is not base64", got=text[:80], expected="base64 of 16 to 64 bytes") from error
    except KeyError as error:
        raise configuration.AgentError(
            "no-instance-id",
            "the instance's id is not known",
            expected="AWS_SSM_INSTANCE_ID in the environment",
            do="run it by Run Command",
        ) from error


def _ask(name: str, options: argparse.Namespace) -> Dict[str, Any]:
    try:
        request = json.loads(sys.stdin.read())
    except ValueError as error:
        raise configuration.AgentError(
            "request", "the request on stdin is not JSON", got=str(error), do="pipe a JSON object into it"
        ) from error
    if not isinstance(request, dict):
        raise configuration.AgentError("request", "the request on stdin is not an object", got=type(request).__name__)
    if options.with_credentials:
        from nitrokit.host import imds  # an HTTP client: the other commands start without it

        request["credentials"] = imds.role_credentials()
    return enclave.ask(enclave.find(name)["EnclaveCID"], options.port, request, listening_within=_APP_LISTENS_WITHIN)


if __name__ == "__main__":
    sys.exit(main())
