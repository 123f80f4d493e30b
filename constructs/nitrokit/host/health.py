"""Whether an enclave is up: nitro-cli's state, the control server's word, and a fresh attestation document.

A convenience of operation: whoever owns this host can forge all of it. What protects data is the key policy; what proves the image is a verifier elsewhere.
"""

from __future__ import annotations

import base64
import os
import time
from typing import Any, Dict, Optional

from nitrokit.host import launch
from nitrokit.host.config import CONTROL_PORT, AgentError, Config
from nitrokit.host.enclave import ask

_ANSWERS_WITHIN = 10.0
_SETTLED_AFTER = 3.0
_POLL = 0.2
_LISTED_EVERY = 60.0


def probe(config: Config) -> Dict[str, Any]:
    """The right enclave runs, and answers that its app is ready, now. Raises AgentError."""
    enclave = launch.find(config.name)
    if not launch.is_right(enclave, config):
        raise AgentError(
            "wrong-enclave",
            "another enclave runs under this name",
            got=str(enclave.get("Flags")),
            expected="the locked image, not in debug mode",
            do="run the run step again",
        )
    if config.control_port is None:
        return {"enclave": enclave}
    return {**_state(enclave, config.control_port), "enclave": enclave}


class Watch:
    """An enclave that is looked at again and again. As long as it answers, nitro-cli is asked once a minute: each call is a process and lines in /var/log/nitro_enclaves."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._enclave: Optional[Dict[str, Any]] = None
        self._listed_at = 0.0

    def look(self) -> Dict[str, Any]:
        """As ``probe``. Raises AgentError."""
        enclave, port = self._enclave, self._config.control_port
        if enclave and port is not None and time.monotonic() - self._listed_at < _LISTED_EVERY:
            try:
                return {**_state(enclave, port), "enclave": enclave}
            except AgentError:
                # Whether it ended, nitro-cli knows.
                pass
        self._enclave = None
        found = probe(self._config)
        self._enclave, self._listed_at = found["enclave"], time.monotonic()
        return found


def wait_until_up(config: Config, timeout: float) -> Dict[str, Any]:
    """Wait until ``probe`` says yes. Raises AgentError, at once for an enclave that ended: it does not come back by itself."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            state = probe(config)
            if config.control_port is None:
                # Nobody to ask: an enclave that ends at its start does so by then.
                time.sleep(_SETTLED_AFTER)
                return probe(config)
            return state
        except AgentError as error:
            if error.slug in ("not-running", "wrong-enclave") or time.monotonic() > deadline:
                raise
        time.sleep(_POLL)


def wait_until_any_up(name: str, timeout: float) -> Dict[str, Any]:
    """Wait for whatever enclave has this name, right or wrong. Raises AgentError."""
    deadline = time.monotonic() + timeout
    while True:
        enclave = launch.find(name)
        try:
            return {**_state(enclave, CONTROL_PORT), "enclave": enclave}
        except AgentError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL)


def attested(config: Config, state: Dict[str, Any]) -> bool:
    """A fresh document of the enclave names our nonce and the locked PCRs; False for an image that nobody can ask. Raises AgentError."""
    if config.control_port is None:
        return False
    nonce = os.urandom(32)
    request = {"op": "attest", "nonce": base64.b64encode(nonce).decode()}
    answer = ask(int(state["enclave"]["EnclaveCID"]), config.control_port, request, timeout=_ANSWERS_WITHIN)
    try:
        document = base64.b64decode(answer["document"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise AgentError("attestation", "the enclave gives no attestation document", got=str(answer)[:200]) from error
    # No signature is verified here, so nothing need be parsed: CBOR holds byte strings as they are.
    missing = [name for name, pcr in sorted(config.measurements.items()) if bytes.fromhex(pcr) not in document]
    if nonce not in document:
        missing.append("the nonce")
    if missing:
        raise AgentError(
            "attestation",
            "the enclave's fresh attestation document is another image's",
            got=f"without {', '.join(missing)}",
            expected="the locked PCRs and our nonce",
            do="run the run step again; a debug-mode enclave has zeros for PCRs",
        )
    return True


def _state(enclave: Dict[str, Any], port: int) -> Dict[str, Any]:
    state = ask(int(enclave["EnclaveCID"]), port, {"op": "health"}, timeout=_ANSWERS_WITHIN)
    if state.get("status") != "ok" or state.get("app") != "running" or not state.get("ready", True):
        raise AgentError(
            "unhealthy",
            f"the enclave {enclave.get('EnclaveName')} is not healthy",
            got=str(state)[:300],
            do="read its log, or run it in debug mode and read its console",
        )
    return state
