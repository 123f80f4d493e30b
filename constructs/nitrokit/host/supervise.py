"""The enclave's unit: brings the configured enclave up, goes back to the last good one when it does not come up, watches it, and ends it with the unit.

Everything that must survive a kill or a loss of power is decided here, from three files of /var/lib/nitrokit/<name>: current.json (what to run), good.json (what was healthy last) and
outcome.json (what became of it).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Dict, NoReturn, Optional

from nitrokit.host import health, launch, outcome, publish
from nitrokit.host.config import STATE, AgentError, Config, check_name, parse
from nitrokit.host.config import path as configuration_path
from nitrokit.host.files import write_atomically
from nitrokit.host.images import sha256
from nitrokit.host.notify import notify
from nitrokit.host.proxies import start_proxies

_EVERY = 5.0
_MISSES = 3


class _Stop(BaseException):
    """systemd stops the unit."""


class _Reload(BaseException):
    """The agent on the disk is another one."""


def serve(name: str) -> NoReturn:
    """Run until systemd stops the unit. Raises AgentError when neither the configured nor the last good enclave comes up, and when the running one is lost: systemd starts the unit again."""
    signal.signal(signal.SIGTERM, _raise_stop)
    signal.signal(signal.SIGHUP, _raise_reload)
    try:
        state = _start(check_name(name))
        notify(f"READY=1\nSTATUS=enclave {state['enclave']['EnclaveID']}")
        _watch(parse(configured(name, "current")))
    except _Stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        notify("STOPPING=1")
        launch.end(name)
        sys.exit(0)
    except _Reload:
        notify("RELOADING=1")
        # The enclave runs on: the new agent finds it.
        os.execv(sys.executable, [sys.executable, *sys.argv])


def _start(name: str) -> Dict[str, Any]:
    text, good = configured(name, "current"), configured(name, "good")
    config, digest = parse(text), outcome.digest_of(text)
    try:
        state = _bring_up(config)
    except AgentError as error:
        outcome.record(config, digest, outcome.FAILED, error=error)
        if good in ("", text):
            publish.state(config, {"status": outcome.FAILED, "reason": str(error)})
            raise
        print(f"{error}; going back to the last good image", file=sys.stderr)
        former = parse(good)
        write_atomically(STATE / name / "current.json", good)
        state = _bring_up(former)
        outcome.record(config, digest, outcome.ROLLED_BACK, enclave_id=state["enclave"]["EnclaveID"], agent=own_digest(), error=error)
        return state
    write_atomically(STATE / name / "good.json", text)
    outcome.record(config, digest, outcome.RUNNING, enclave_id=state["enclave"]["EnclaveID"], agent=own_digest())
    return state


def _bring_up(config: Config) -> Dict[str, Any]:
    notify(f"STATUS=starting {config.eif.name}")
    start_proxies(config)
    started = launch.ensure(config)
    try:
        return _checked(config)
    except AgentError:
        if started["started"]:
            raise
    # It ran already, and does not answer: a fresh one may.
    launch.end(config.name)
    launch.ensure(config)
    return _checked(config)


def _checked(config: Config) -> Dict[str, Any]:
    state = health.wait_until_up(config, config.healthy_within)
    health.attested(config, state)
    return state


def _watch(config: Config) -> NoReturn:
    """Look every five seconds; what is wrong three times in a row, or has ended, is started again. Raises AgentError."""
    misses = 0
    publisher, watch = publish.Publisher(config), health.Watch(config)
    while True:
        try:
            state = watch.look()
            misses = 0
            publisher.healthy(state, wanted=_is_wanted(config.name))
        except AgentError as error:
            misses += 1
            publisher.unhealthy(error)
            if misses == _MISSES or error.slug in ("not-running", "wrong-enclave"):
                raise
        notify("WATCHDOG=1")
        time.sleep(_EVERY)


def _is_wanted(name: str) -> bool:
    """Whether what runs is what was deployed last: not after a roll-back, nor until the run step of an update."""
    try:
        return configuration_path(name).read_text(errors="replace") == configured(name, "current")
    except (OSError, AgentError):
        return False


def own_digest() -> str:
    """Of the agent that runs: another one on the disk makes a reload worth while."""
    path = Path(sys.argv[0])
    return sha256(path) if path.is_file() else ""


def configured(name: str, which: str) -> str:
    """The text of ``which``: "current", or "good", which is "" where nothing was healthy yet. Raises AgentError."""
    path = STATE / name / f"{which}.json"
    try:
        return path.read_text(errors="replace")  # bytes that are no text, of a disk that failed: parse says so
    except OSError as error:
        if which == "good":
            return ""
        raise AgentError("no-config", f"nothing to run for {name}", got=str(error), do="run the run step") from error


def _raise_stop(number: int, frame: Optional[FrameType]) -> None:
    raise _Stop


def _raise_reload(number: int, frame: Optional[FrameType]) -> None:
    raise _Reload
