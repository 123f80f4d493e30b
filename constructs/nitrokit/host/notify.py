"""What a service tells systemd (sd_notify(3)): nothing where nobody listens."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send e.g. "READY=1". A systemd that does not take it changes nothing here."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        try:
            connection.connect("\0" + address[1:] if address.startswith("@") else address)
            connection.sendall(message.encode())
        except OSError:
            pass
