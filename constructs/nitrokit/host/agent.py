"""The agent's command line: one JSON line on stdout for each command, errors on stderr with cause and remedy, exit code 1."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from nitrokit._version import __version__
from nitrokit.errors import NitrokitError
from nitrokit.host import config as configuration
from nitrokit.host import health, images, launch, logs, packages, place, pool, publish, requests, rollout, signals, supervise
from nitrokit.host.config import AgentError, Config
from nitrokit.host.diagnose import diagnose
from nitrokit.host.files import write_atomically
from nitrokit.host.locking import exclusive
from nitrokit.host.status import status

_UP_WITHIN = 120.0
_CHANGES: Dict[str, Callable[[Config], Dict[str, Any]]] = {
    "allocate": pool.allocate,
    "drain": rollout.drain,
    "image": images.image,
    "run": rollout.run_enclave,
    "resume": rollout.resume,
    "rotate": rollout.rotate,
}
_STEPS = ("install", "image", "verify", "allocate", "run", "health")
_RECORDED = ("health", "drain", "resume", "rotate")
"""What of all that succeeds is worth a line of the log: each takes the aws command a second."""


class _OwnFault(AgentError):
    """Nothing that an operator did."""

    exit_code = 3


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments)
    signal = os.environ.pop("SSM_Signal", "")  # an address to write to: no program that we run need know it
    place.recall()
    try:
        result = _dispatch(options)
    except NitrokitError as error:
        return _fail(options, error, signal)
    except OSError as error:
        return _fail(options, _of_file(error), signal)
    except Exception as error:  # whoever reads this is an operator, not a developer
        own = _OwnFault("internal", "the agent itself is at fault", got=f"{type(error).__name__}: {error}", do="report it")
        return _fail(options, own, signal)
    print(json.dumps(result))
    if options.command == _STEPS[-1]:
        signals.tell(signal, options.enclave, data=str(result.get("enclave_id")))
    if options.command in _RECORDED:
        publish.line(configuration.load(options.enclave), f"{options.command}: {json.dumps(result)}")
    return 0


def _of_file(error: OSError) -> AgentError:
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return AgentError("not-root", "only root may do this on a parent", got=error, do="run it by sudo")
    return AgentError("file", "the parent's disk or file system failed", got=error, do="look at `df` and `dmesg`; run the step again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nitrokit-agent", description="Runs enclaves on this parent instance.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status")
    commands.add_parser("diagnose").add_argument("--upload", default="", help="an S3 folder: s3://bucket/prefix")
    for name in (*_STEPS, "serve", "follow", "wait", "attest", "logs", "ask", "drain", "resume", "rotate", "terminate"):
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
            command.add_argument("--since", type=_within(0), default=0, help="number of the first line wanted: `next` of the last answer")
        if name == "ask":
            command.add_argument("--port", type=_within(1, 2**32 - 2), default=5000)
            command.add_argument("--with-credentials", action="store_true", help="add the instance role's credentials to the request")
    return parser


def _within(least: int, most: Optional[int] = None) -> Callable[[str], int]:
    """For an argument that is a whole number."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number") from None
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text} is out of range; expected {least} {'or more' if most is None else f'to {most}'}")
        return value

    return parse


def _dispatch(options: argparse.Namespace) -> Dict[str, Any]:
    if options.command == "status":
        return status()
    if options.command == "diagnose":
        return diagnose(options.upload)
    name = configuration.check_name(options.enclave)
    if options.command in ("install", "terminate", "verify", *_CHANGES):
        with exclusive():
            return _change(name, options)
    return _look(name, options)


def _look(name: str, options: argparse.Namespace) -> Dict[str, Any]:
    """The commands that change nothing, and the two that run as units."""
    if options.command == "wait":
        return health.wait_until_any_up(name, _UP_WITHIN)
    if options.command == "attest":
        return requests.attest(name, options.nonce, options.nonce_for)
    if options.command == "logs":
        return logs.read(name, options.since)
    if options.command == "ask":
        return requests.ask_app(name, options.port, sys.stdin.read(), with_credentials=options.with_credentials)
    if options.command == "serve":
        supervise.serve(name)
    config = configuration.load(name)
    return logs.follow(config) if options.command == "follow" else rollout.check(config)


def _change(name: str, options: argparse.Namespace) -> Dict[str, Any]:
    """The commands that change the parent, under its lock."""
    if options.command == "install":
        return _install(name, _config_variable())
    if options.command == "terminate":
        return {"ended": launch.end(name)}
    config = configuration.load(name)
    if options.command == "verify":
        return images.verify(config, options.eif or config.eif)
    return _CHANGES[options.command](config)


def _install(name: str, text: str) -> Dict[str, Any]:
    config = configuration.parse(text)
    if config.name != name:
        raise AgentError("config", "the configuration is another enclave's", got=config.name, expected=name, do="deploy again")
    versions = packages.install(config)
    place.remember()
    write_atomically(configuration.path(name), text)
    return {"enclave": name, **versions}


def _config_variable() -> str:
    """The document's parameter, as an environment variable: never part of a command line."""
    try:
        return os.environ["SSM_Config"]
    except KeyError as error:
        raise AgentError(
            "old-ssm-agent",
            "the configuration did not arrive",
            expected="SSM_Config in the environment",
            do="update the SSM Agent to 3.3.2746.0 or newer (parameters by interpolationType ENV_VAR)",
        ) from error


def _fail(options: argparse.Namespace, error: NitrokitError, signal: str) -> int:
    print(f"nitrokit-agent {options.command}: {error}", file=sys.stderr)
    if options.command in (*_STEPS, *_CHANGES):
        _tell(options, error, signal)
    return error.exit_code


def _tell(options: argparse.Namespace, error: NitrokitError, signal: str) -> None:
    """A step that failed is seen from outside, too. Never raises."""
    signals.tell(signal, options.enclave, failure=f"{options.command}: {error}")
    try:
        config = configuration.load(options.enclave)
    except NitrokitError:
        return  # nothing is known of where to tell it
    publish.line(config, f"{options.command}: {error}")
    publish.state(config, {"status": "failed", "step": options.command, "reason": str(error)})


if __name__ == "__main__":
    sys.exit(main())
