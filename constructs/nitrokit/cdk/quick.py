"""A quicker synthesis, for an app's first lines."""

import atexit
import gc
import os

_THREADS = 4
"""What Node.js starts unless it is told otherwise (Node.js documentation "--v8-pool-size")."""


def quick_synthesis() -> None:
    """To be called before ``import aws_cdk``: on two cores the synthesis of app.py takes a seventh less (bench/README.md). What imports and constructs make lives to the end, which is near, so that
    neither Python nor Node.js need look for what does not; and of the threads that Node.js compiles in, there are no more than cores. NODE_OPTIONS stays as it is where it is set.
    """
    gc.disable()
    atexit.register(gc.freeze)
    os.environ.setdefault("NODE_OPTIONS", f"--max-semi-space-size=64 --v8-pool-size={min(_THREADS, os.cpu_count() or 1)}")
