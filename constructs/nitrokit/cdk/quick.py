"""A quicker synthesis, for an app's first lines."""

import atexit
import gc
import json
import os
from pathlib import Path

_THREADS = 4
"""What Node.js starts unless it is told otherwise (Node.js documentation "--v8-pool-size")."""

_FLAGS = Path(__file__).with_name("quick.cjs")


def quick_synthesis() -> None:
    """To be called before ``import aws_cdk``: on two cores the synthesis of app.py takes a fifth less (bench/README.md). What imports and constructs make lives to the end, which is near, so that
    neither Python nor Node.js need look for what does not; of the threads that Node.js compiles in, there are no more than cores; and the rules that the CDK checks templates by (WebAssembly) are
    optimised only where they run for long: a synthesis was over before that was done, and waited for it. NODE_OPTIONS stays as it is where it is set.
    """
    gc.disable()
    atexit.register(gc.freeze)
    threads = min(_THREADS, os.cpu_count() or 1)
    # In double quotes, with backslashes before what they hold of those, as JSON has them (Node.js documentation "NODE_OPTIONS").
    os.environ.setdefault(
        "NODE_OPTIONS", f"--max-semi-space-size=64 --v8-pool-size={threads} --require {json.dumps(str(_FLAGS), ensure_ascii=False)}"
    )
