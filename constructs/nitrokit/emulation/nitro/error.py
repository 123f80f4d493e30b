"""nitro-cli's error. By itself, so that the work-alike starts as fast as a command that is asked every five seconds on each of a hundred parents must."""


class NitroError(Exception):
    """An error of nitro-cli, with its E-code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
