"""The image room's errors."""

from __future__ import annotations

from nitrokit.errors import EnvironmentProblem, NitrokitError, UsageError


class ImageError(NitrokitError):
    """Something in an image's sources must not go into an image."""

    area = "image"


class LockError(UsageError):
    """A lock file that is missing, torn or of another form."""

    area = "lock"


class FetchError(EnvironmentProblem):
    """A pinned file that cannot be had."""

    area = "fetch"


class KernelError(EnvironmentProblem):
    """No enclave kernel, and none can be built here."""

    area = "kernel"
