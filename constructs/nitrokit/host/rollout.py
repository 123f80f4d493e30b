"""Which image a unit is to run, and whether it took it: the run step, and what an operator does on day two."""

from __future__ import annotations

from typing import Any, Dict, Optional

from nitrokit.host import config as configuration
from nitrokit.host import health, images, launch, outcome, publish, units
from nitrokit.host.commands import run, succeeds
from nitrokit.host.config import AgentError, Config
from nitrokit.host.files import remove, write_atomically
from nitrokit.host.proxies import remove_unused
from nitrokit.host.supervise import configured, own_digest


def run_enclave(config: Config) -> Dict[str, Any]:
    """The unit runs this configuration, and is healthy. One that does already is left alone. Raises AgentError; ``rolled-back`` when the former image runs again instead."""
    images.verify(config, config.eif)  # before what runs is touched
    retire(config)
    text = configuration.path(config.name).read_text()
    changed = units.install(config)
    write_atomically(config.state / "current.json", text)
    last = outcome.read(config)
    if not changed and last is not None and _is_done(config, last, text):
        if last.agent != own_digest():
            run(["systemctl", "reload", units.enclave_unit(config.name)], "handing the enclave to the new agent", "run")
        return {"started": False, "enclave_id": last.enclave_id}
    done = _begin(config, "restart")
    remove_unused()
    return {"started": True, "enclave_id": done.enclave_id}


def check(config: Config) -> Dict[str, Any]:
    """Wait until the enclave is up; it attests afresh. Raises AgentError."""
    state = health.wait_until_up(config, config.healthy_within)
    attested = health.attested(config, state)
    return {"status": "healthy", "enclave_id": state["enclave"]["EnclaveID"], "attested": attested}


def drain(config: Config) -> Dict[str, Any]:
    """End the enclave, also over reboots, until ``resume``. Raises AgentError."""
    unit = units.enclave_unit(config.name)
    run(["systemctl", "disable", "--now", unit], "draining the enclave", "drain", timeout=units.STARTS_WITHIN)
    ended = launch.end(config.name)
    publish.state(config, {"status": "drained"})
    return {"drained": True, "ended": ended}


def resume(config: Config) -> Dict[str, Any]:
    """Run again what was drained. Raises AgentError."""
    unit = units.enclave_unit(config.name)
    run(["systemctl", "enable", unit], "resuming the enclave", "resume")
    if not units.is_active(unit):
        _begin(config, "start")
    return check(config)


def rotate(config: Config) -> Dict[str, Any]:
    """A fresh enclave of the same image: new keys, empty memory. Raises AgentError, also for one that is drained."""
    if not succeeds(["systemctl", "is-enabled", "--quiet", units.enclave_unit(config.name)]):
        raise AgentError("drained", f"{config.name} is drained", expected="an enclave that shall run", do="resume it")
    _begin(config, "restart")
    return check(config)


def retire(config: Config) -> None:
    """End enclaves that a former deployment of the same group left here. Raises AgentError."""
    named = {one.name for one in config.pool}
    for other in configuration.installed():
        if other.group == config.group and other.group and other.name not in named:
            units.uninstall(other.name)
            launch.end(other.name)
            remove(configuration.path(other.name))


def _is_done(config: Config, last: outcome.Outcome, text: str) -> bool:
    if last.status != outcome.RUNNING or last.digest != outcome.digest_of(text) or not units.is_active(units.enclave_unit(config.name)):
        return False
    return any(launch.is_right(one, config) and one.get("EnclaveID") == last.enclave_id for one in launch.running())


def _begin(config: Config, verb: str) -> outcome.Outcome:
    """Have systemd start or restart the unit, and hear from the unit how it went: systemd knows no cause."""
    digest = outcome.digest_of(configured(config.name, "current"))
    remove(config.state / "outcome.json")
    try:
        run(["systemctl", verb, units.enclave_unit(config.name)], "starting the enclave", "run", timeout=units.STARTS_WITHIN + 60)
    except AgentError:
        if outcome.read(config) is None:
            raise
    return _judge(config, digest)


def _judge(config: Config, digest: str) -> outcome.Outcome:
    last = outcome.read(config)
    if last is not None and last.digest == digest and last.status == outcome.RUNNING:
        return last
    cause = last.error if last is not None else None
    if last is not None and cause is not None and last.status == outcome.ROLLED_BACK:
        raise AgentError(
            "rolled-back",
            "the new image did not come up; the former one runs again",
            got=_told(cause),
            expected="a healthy enclave of the new image",
            do="correct the image, lock and deploy it again",
        )
    if cause is not None:
        raise AgentError(_slug(cause), str(cause.get("what")), got=cause.get("got"), expected=cause.get("expected"), do=cause.get("do"))
    raise AgentError(
        "run", "the enclave's unit did not say how it went", got=str(last), do=f"journalctl -u {units.enclave_unit(config.name)}"
    )


def _slug(cause: Dict[str, Any]) -> str:
    return str(cause.get("code", "")).rpartition("/")[2] or "run"


def _told(cause: Dict[str, Optional[str]]) -> str:
    remedy = f" ({cause['do']})" if cause.get("do") else ""
    return f"{cause.get('what')} [{cause.get('code')}]: {cause.get('got')}{remedy}"
