"""What no [[egress]] names fails at once and leaves a line; in a network namespace of its own, as an enclave's is."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from nitrokit.runtime import refusals


def test_a_name_that_nobody_allows_does_not_exist_and_is_told():
    said: list[str] = []
    server = refusals.refuse_names(said.append, ("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        for garbage in (b"", b"\0" * 12, b"\xff" * 40):
            asker.sendto(garbage, server.getsockname())
        question = b"\x12\x34\1\0\0\1" + bytes(6) + b"\3www\7example\3com\0\0\1\0\1"
        asker.sendto(question, server.getsockname())
        while (answer := asker.recv(512))[:2] != b"\x12\x34":
            pass
    server.close()
    assert answer[2] & 0x80 and answer[3] & 15 == 3 and answer[12:] == question[12:]
    assert said[-1].startswith("egress: www.example.com is refused")


def test_what_an_app_asks_for_is_one_line_of_the_log():
    query = bytes(12) + b"\x1ca\nnitrokit: the app ended w\x1b\x03\xe9.\\\0" + bytes(4)
    name, end = refusals.question_name(query)
    assert name == "a\\nnitrokit: the app ended w\\x1b.\\xe9.\\\\"
    assert end == len(query) - 4


INSIDE = """
import errno, json, socket, time
from pathlib import Path
from nitrokit.runtime import mounts, refusals
mounts.raise_loopback()
said = []
listener = socket.create_server(("127.0.1.1", 443))
refusals.tell_ports({("127.0.1.1", 443)}, said.append)
refusals.tell_addresses(said.append, period=0.1)
def attempt(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as one:
        started = time.monotonic()
        try:
            one.connect(address)
        except OSError as error:
            return errno.errorcode[error.errno], time.monotonic() - started < 1
        return "connected", True
ports = [attempt(socket.AF_INET, one) for one in (("127.0.1.1", 443), ("127.0.1.1", 80), ("127.0.0.1", 80))]
time.sleep(0.3)
addresses = [attempt(socket.AF_INET, ("192.0.2.1", 443)), attempt(socket.AF_INET, ("169.254.169.254", 80)), attempt(socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM)]
if Path("/proc/net/if_inet6").exists():
    addresses.append(attempt(socket.AF_INET6, ("2001:db8::1", 443)))
time.sleep(0.5)
print(json.dumps([ports, addresses, said]))
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap makes the network namespace, and is not here")
def test_ports_and_addresses_that_nobody_allows_fail_at_once_and_are_told():
    sandbox = ["bwrap", "--unshare-all", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--dev-bind", "/", "/", "--proc", "/proc"]
    done = subprocess.run([*sandbox, sys.executable, "-c", INSIDE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    ports, addresses, said = json.loads(done.stdout)
    assert ports == [["connected", True], ["ECONNREFUSED", True], ["ECONNREFUSED", True]]
    assert {tuple(one) for one in addresses} == {("ENETUNREACH", True)}
    told = [line for line in said if "127.0.1.1:80 is refused" in line]
    assert len(told) == 1, said
    counted = [int(line.split()[1]) for line in said if "attempts to reach an address" in line]
    assert sum(counted) == len(addresses), said
    assert len(told) + len(counted) == len(said), "what is allowed, and the app's own ports, are not told"
