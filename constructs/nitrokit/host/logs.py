"""What an app prints: from the enclave's bounded buffer to the journal (this unit's stdout) and to CloudWatch."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Dict, List, Tuple

from nitrokit.host import launch
from nitrokit.host.cloudwatch import Stream
from nitrokit.host.config import CONTROL_PORT, AgentError, Config
from nitrokit.host.enclave import ask
from nitrokit.host.files import read_state, write_atomically

_WAIT = 20
_PAUSE = 1.0


def read(name: str, since: int) -> Dict[str, Any]:
    """What the app printed, from line ``since`` on: ``lines``, ``streams``, ``next``, ``dropped``. Raises AgentError, also when the image lets nobody read it."""
    return _ask(int(launch.find(name)["EnclaveCID"]), CONTROL_PORT, since, 0)


def follow(config: Config) -> Dict[str, Any]:
    """Until the enclave ends, or says that nobody may read. Goes on over restarts of the agent; a line may be told twice where it was killed, and is never skipped. Raises AgentError."""
    if config.control_port is None:
        return {"followed": 0}
    place, stream = config.state / "log.json", Stream(config, "app")
    followed = 0
    while True:
        enclave = launch.find(config.name)
        since = _since(read_state(place), enclave["EnclaveID"])
        try:
            answer = _ask(int(enclave["EnclaveCID"]), config.control_port, since, _WAIT)
        except AgentError as error:
            if error.slug == "no-logs":
                return {"followed": followed}
            raise
        lines, after = lines_of(answer)
        _tell(lines, stream)
        followed += len(lines)
        write_atomically(place, json.dumps({"enclave_id": enclave["EnclaveID"], "next": after}))
        if not lines:
            time.sleep(_PAUSE)


def _since(state: Dict[str, Any], enclave_id: str) -> int:
    """Lines are numbered anew in each enclave."""
    return int(state["next"]) if state.get("enclave_id") == enclave_id and isinstance(state.get("next"), int) else 0


def lines_of(answer: Dict[str, Any]) -> Tuple[List[str], int]:
    """The lines of an answer, and where to go on; an enclave may answer anything. Raises AgentError."""
    lines, after = answer.get("lines"), answer.get("next")
    if not isinstance(lines, list) or not isinstance(after, int) or not all(isinstance(one, str) for one in lines):
        raise AgentError("answer", "the enclave's answer is not a piece of a log", got=str(answer)[:200])
    dropped = answer.get("dropped")
    return ([f"({dropped} lines lost)"] if dropped else []) + lines, after


def _tell(lines: List[str], stream: Stream) -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()
    try:
        stream.put(lines)
    except AgentError as error:
        print(f"not in CloudWatch: {error}", file=sys.stderr)


def _ask(cid: int, port: int, since: int, wait: int) -> Dict[str, Any]:
    answer = ask(cid, port, {"op": "logs", "since": since, "wait": wait})
    if "error" in answer:
        raise AgentError(
            "no-logs",
            "the enclave gives no logs",
            got=str(answer["error"])[:200],
            do="set logs = true in [app] of its enclave.toml, and build it again",
        )
    return answer
