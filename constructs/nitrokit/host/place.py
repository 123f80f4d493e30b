"""Where this parent is, as Systems Manager says: kept for the units, and for whoever runs the agent by hand. /var/lib/nitrokit/place.json."""

from __future__ import annotations

import json
import os

from nitrokit.host.config import STATE
from nitrokit.host.files import read_state, write_atomically

_FILE = STATE / "place.json"
_VARIABLES = ("AWS_DEFAULT_REGION", "AWS_SSM_INSTANCE_ID")


def remember() -> None:
    """Keep what the environment says, unless it says nothing."""
    told = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if told:
        write_atomically(_FILE, json.dumps({**read_state(_FILE), **told}))


def recall() -> None:
    """What the environment does not say is as it was."""
    known = read_state(_FILE)
    for name in _VARIABLES:
        if not os.environ.get(name) and isinstance(known.get(name), str):
            os.environ[name] = known[name]
