"""What KMS answers when it refuses."""

from __future__ import annotations


class KmsError(Exception):
    """An error that KMS answers: its type, and the message."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
