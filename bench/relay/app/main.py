"""What bench/runtime.py measures ingress with: a server that echoes or counts, behind init's ingress and, in the same enclave, behind socat."""

import socket
import subprocess
import threading

PORT, SOCAT = 8080, 6001


def serve(connection: socket.socket) -> None:
    """First byte "e": echo; "c": count up to the end, and answer the count."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection.recv(1) == b"e":
            while data := connection.recv(1 << 16):
                connection.sendall(data)
            return
        size = 0
        while data := connection.recv(1 << 18):
            size += len(data)
        connection.sendall(b"%d\n" % size)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", PORT), backlog=512)
    subprocess.Popen(["/usr/bin/socat", f"VSOCK-LISTEN:{SOCAT},fork,reuseaddr", f"TCP:127.0.0.1:{PORT},nodelay"])
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
