"""An app that does what a test tells it, from inside: the image stays the same, and its measurements with it."""

import traceback
from typing import Any

from nitrokit.runtime import frames, vsock

PORT = 5000


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the Python text ``run``; the answer is what it calls ``result``."""
    scope: dict[str, Any] = {}
    try:
        exec(request["run"], scope)
    except Exception:
        return {"failed": traceback.format_exc()}
    return {"result": scope.get("result")}


if __name__ == "__main__":
    frames.serve(vsock.listen(PORT), answer)
