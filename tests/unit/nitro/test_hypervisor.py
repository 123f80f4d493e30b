"""What nitro-cli's driver refuses, by its codes; the machines beneath do nothing but give a sign of life."""

import io
import socket
import threading
from datetime import UTC, datetime

import pytest

from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.hypervisor import HEARTBEAT, HEARTBEAT_PORT, Hypervisor


class _Machine:
    def __init__(self, launch):
        self.console = launch.folder / "console"
        self.console.write_text("")
        self._alive = True
        threading.Thread(target=self._beat, args=(launch.vsock / "3" / str(HEARTBEAT_PORT),), daemon=True).start()

    def _beat(self, path):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(HEARTBEAT)
            connection.recv(1)

    def alive(self):
        return self._alive

    def pid(self):
        return 1

    def stop(self):
        self._alive = False


class _Runner:
    sentence = "enclaves do nothing"

    def start(self, launch):
        return _Machine(launch)


@pytest.fixture
def hypervisor(tmp_path, pki):
    made = Hypervisor(
        tmp_path / "hw", instance_id="i-0123456789abcdef0", role_arn=None, pki=pki, tls_authorities="", runner=_Runner(), now=lambda: datetime.now(UTC)
    )  # fmt: skip
    made.allocate(cpu_count=10, memory_mib=512)
    yield made
    made.close()


@pytest.fixture
def run(hypervisor, small_eif):
    def run(**changes):
        wanted = {"cpu_count": 2, "memory_mib": 64, "cid": None, "name": "x", "debug": False, **changes}
        return hypervisor.run(io.BytesIO(small_eif), **wanted)

    return run


def _refusal(run, **changes):
    with pytest.raises(NitroError) as caught:
        run(**changes)
    return caught.value.code


def test_enclaves_share_a_pool_until_it_is_empty(hypervisor, run):
    first, second = run(memory_mib=256), run(memory_mib=192)
    assert set(first["CPUIDs"]).isdisjoint(second["CPUIDs"])
    assert first["EnclaveCID"] != second["EnclaveCID"]
    assert _refusal(run, memory_mib=66) == "E27"
    assert _refusal(run, cpu_count=8) == "E22"
    assert _refusal(hypervisor.allocate, cpu_count=2, memory_mib=64) == "E00"
    run(memory_mib=64)
    assert _refusal(run) == "E27"
    hypervisor.terminate(enclave_id=first["EnclaveID"])
    assert run(memory_mib=256)["CPUIDs"] == first["CPUIDs"]


def test_four_enclaves_run_on_one_parent(run):
    for _ in range(4):
        run()
    assert _refusal(run) == "E39"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"memory_mib": 62}, "E26"), ({"cpu_count": 3}, "E20"), ({"cpu_count": 0}, "E20"), ({"cid": 3}, "E05"), ({"cid": 20}, "E39")],
)
def test_what_no_parent_can_give_is_refused(run, changes, code):
    run(cid=20)
    assert _refusal(run, **changes) == code


def test_what_is_no_eif_is_refused(hypervisor):
    with pytest.raises(NitroError) as caught:
        hypervisor.run(io.BytesIO(b"no EIF"), cpu_count=2, memory_mib=64, cid=None, name="x", debug=False)
    assert caught.value.code == "E35"
    assert hypervisor.describe() == []
