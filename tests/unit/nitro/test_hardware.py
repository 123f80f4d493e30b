"""Emulated hardware: the PKI's shape, the NSM's rules, countersigning, the services' parsers, vsock streams."""

import mmap
import os
import socket
import struct
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from nitrokit.core import cbor
from nitrokit.core.attestation import parse_document, verify_document
from nitrokit.core.cose import CoseSign1
from nitrokit.core.nsm import NsmClient, NsmError
from nitrokit.emulation.nitro.error import NitroError
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.emulation.nitro.services import parse_allocator, parse_proxy_command
from nitrokit.emulation.nitro.vring import GuestMemory, Vring

MODULE = "i-0123456789abcdef0-enc0123456789abcde"


def test_the_chain_has_the_shape_and_lifetimes_of_awss(pki):
    leaf, bundle = pki.leaf(MODULE)
    chain = [x509.load_der_x509_certificate(der) for der in [*bundle, leaf.der]]
    lifetimes = [one.not_valid_after_utc - one.not_valid_before_utc for one in chain]
    assert lifetimes[1:] == [timedelta(days=20, hours=1), timedelta(days=5, hours=18), timedelta(days=1), timedelta(hours=3, seconds=3)]
    constraints = [one.extensions.get_extension_for_class(x509.BasicConstraints).value for one in chain]
    assert [(one.ca, one.path_length) for one in constraints] == [(True, None), (True, 2), (True, 1), (True, 0), (False, None)]
    assert not any(b"aws.nitro-enclaves" in one for one in bundle), "never AWS's names"


def test_documents_hold_however_long_the_emulation_runs(make_nsm):
    """Issuers live for a day, for 5.75 and for 20: each is renewed in time."""
    clock = [datetime.now(UTC)]
    pki = EmulatedPki(lambda: clock[0])
    nsm = NsmClient(make_nsm(pki=pki, now=lambda: clock[0]).answer)
    regionals = set()
    for _ in range(250):
        data = nsm.attestation()
        verify_document(data, trust_anchor=pki.trust_anchor, time=clock[0])
        regionals.add(parse_document(data).cabundle[1])
        clock[0] += timedelta(hours=2, minutes=20)
    assert len(regionals) == 2


def test_documents_are_indefinite_maps_in_awss_order(make_nsm):
    document = NsmClient(make_nsm().answer).attestation(nonce=b"n")
    payload = parse_document(document).sign1.payload
    assert (payload[0], payload[-1]) == (0xBF, 0xFF)
    assert list(cbor.decode(payload)) == [
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    ]


def test_user_pcrs_extend_lock_and_then_appear(make_nsm):
    nsm = NsmClient(make_nsm().answer)
    assert 16 not in parse_document(nsm.attestation()).pcrs
    value = nsm.extend_pcr(16, b"data")
    nsm.lock_pcr(16)
    assert parse_document(nsm.attestation()).pcrs[16] == value
    for attempt in (
        lambda: nsm.extend_pcr(16, b"x"),
        lambda: nsm.extend_pcr(0, b"x"),
        lambda: nsm.describe_pcr(40),
        lambda: nsm.attestation(nonce=bytes(513)),
    ):
        with pytest.raises(NsmError) as caught:
            attempt()
        assert caught.value.code == "nsm/refused"
    assert nsm.describe().locked_pcrs == tuple(range(17)), "0 to 15 are locked at boot"
    assert len(nsm.get_random()) == 256


def _unsigned(nsm, **changes):
    """What QEMU's device says: alg -1, zero certificate and signature."""
    payload = cbor.decode(parse_document(NsmClient(nsm.answer).attestation(nonce=b"n", public_key=b"k")).sign1.payload)
    payload |= {"certificate": bytes(64), "cabundle": [bytes(64)], **changes}
    return CoseSign1(bytes.fromhex("a10120"), cbor.encode(payload), bytes(64)).encode()


def test_the_hypervisor_countersigns_its_own_enclaves_document(make_nsm, pki):
    nsm = make_nsm()
    document = verify_document(nsm.countersign(_unsigned(nsm)), trust_anchor=pki.trust_anchor, time=datetime.now(UTC))
    assert (document.nonce, document.public_key, document.is_debug) == (b"n", b"k", False)


def test_it_zeroes_a_debug_enclaves_pcrs(make_nsm, pki):
    production = make_nsm()
    document = verify_document(
        make_nsm(debug=True).countersign(_unsigned(production)), trust_anchor=pki.trust_anchor, time=datetime.now(UTC)
    )
    assert document.is_debug


def test_it_refuses_another_enclaves_or_a_forged_document(make_nsm):
    nsm = make_nsm()
    pcrs = {**parse_document(NsmClient(nsm.answer).attestation()).pcrs, 0: bytes(48)}
    for forged in (_unsigned(nsm, module_id="i-1-enc2"), _unsigned(nsm, pcrs=pcrs), b"", b"\x84"):
        with pytest.raises(NsmError) as caught:
            nsm.countersign(forged)
        assert caught.value.code == "nsm/countersign"


@pytest.mark.parametrize(
    "text",
    ["memory_mib: 512\ncpu_count: 2\n", "---\nmemory_mib: 512\n", "---\nmemory_mib: 512\ncpu_count: 2\ncpu_pool: 2,3\n", "---\nmemory_mib: 512\ncpu_count: 2 # two\n",
        "---\nfoo: 1\n", "---\nmemory_mib:\ncpu_count: 2\n"],
)  # fmt: skip
def test_allocator_yaml_is_read_as_the_shell_script_reads_it(text):
    with pytest.raises(NitroError):
        parse_allocator(text)


def test_allocator_and_proxy_command_lines():
    assert parse_allocator("# before\n---\nmemory_mib: 512\ncpu_count: 2\n") == {"memory_mib": 512, "cpu_count": 2}
    assert parse_proxy_command(["/usr/bin/vsock-proxy", "--num_workers", "4", "--config", "/etc/x", "8001", "h", "443"]) == (
        8001,
        "h",
        443,
        "/etc/x",
    )
    with pytest.raises(NitroError):
        parse_proxy_command(["vsock-proxy", "8001", "h"])


class _Guest:
    """A guest's side of a queue pair in a memory file: what a driver does, by the specification, in another hand than the back end."""

    def __init__(self):
        self.file = os.memfd_create("guest")
        os.ftruncate(self.file, 1 << 20)
        self.memory = GuestMemory()
        self.memory.set([(0, 1 << 20, 0x7F0000000000, 0)], [os.dup(self.file)])
        self.ring = Vring(self.memory)
        self.ring.size = 8
        self.ring.kick = os.eventfd(0)
        self.ring.call = os.eventfd(0)
        self.ring.set_addresses(0x7F0000000000, 0x7F0000002000, 0x7F0000001000)
        self.available = self.used = 0

    def offer(self, size=4096):
        index = self.available % 8
        os.pwrite(self.file, struct.pack("<QIHH", 0x10000 + index * 0x1000, size, 2, 0), 16 * index)
        os.pwrite(self.file, struct.pack("<H", index), 0x1004 + 2 * index)
        self.available += 1
        os.pwrite(self.file, struct.pack("<H", self.available & 0xFFFF), 0x1002)

    def take(self):
        if struct.unpack("<H", os.pread(self.file, 2, 0x2002))[0] == self.used & 0xFFFF:
            return None
        head, length = struct.unpack("<II", os.pread(self.file, 8, 0x2004 + 8 * (self.used % 8)))
        self.used += 1
        return os.pread(self.file, length, 0x10000 + head * 0x1000)


@pytest.fixture
def switch():
    import selectors

    from nitrokit.emulation.nitro.streams import Switch

    guest, ends = _Guest(), {}

    def connect(cid, port):
        if port == 9:
            return None
        ours, ends[cid, port] = socket.socketpair()
        return ours

    return Switch(16, guest.ring, selectors.DefaultSelector(), connect), guest, ends


def _packet(operation, data=b"", *, port=1234, host_port=80, flags=0, allocation=1 << 18, forwarded=0):
    return struct.pack("<QQIIIHHIII", 16, 3, port, host_port, len(data), 1, operation, flags, allocation, forwarded) + data


def _operations(guest):
    return [(struct.unpack_from("<H", one, 30)[0], one[44:]) for one in iter(guest.take, None)]


def test_a_guests_connection_data_and_end(switch):
    side, guest, ends = switch
    for _ in range(8):
        guest.offer()
    side.from_guest(_packet(1))
    side.from_guest(_packet(5, b"hello"))
    side.flush()
    assert ends[3, 80].recv(10) == b"hello"
    ends[3, 80].sendall(b"x" * 5000)
    side.flush()
    operations = _operations(guest)
    assert operations[0] == (2, b"")
    assert b"".join(data for operation, data in operations if operation == 5) == b"x" * 5000
    assert all(len(data) <= 4096 - 44 for _, data in operations), "a packet must fit the guest's buffer"
    side.from_guest(_packet(4, flags=3))
    side.flush()
    assert ends[3, 80].recv(10) == b""


def test_credit_is_honoured_and_refusals_reset(switch):
    side, guest, ends = switch
    for _ in range(8):
        guest.offer()
    side.from_guest(_packet(1, host_port=9))
    side.from_guest(_packet(1, allocation=100))
    side.from_guest(_packet(5, b"stray", port=77))
    side.flush()
    assert [operation for operation, _ in _operations(guest)] == [3, 2, 3]
    ends[3, 80].sendall(b"y" * 1000)
    side.flush()
    assert sum(len(data) for _, data in _operations(guest)) == 100
    side.from_guest(_packet(6, allocation=100, forwarded=60))
    side.flush()
    assert sum(len(data) for _, data in _operations(guest)) == 60


def test_without_buffers_nothing_is_lost(switch):
    side, guest, ends = switch
    side.from_guest(_packet(1))
    side.flush()
    ends[3, 80].sendall(b"later")
    side.flush()
    assert _operations(guest) == []
    guest.offer()
    guest.offer()
    side.flush()
    assert _operations(guest) == [(2, b""), (5, b"later")]


@pytest.mark.parametrize("packet", [b"", bytes(44), _packet(99), _packet(5, b"x" * 10)[:30]])
def test_a_malformed_packet_is_reset_or_ends_the_guests_vsock_only(switch, packet):
    side, _, _ = switch
    try:
        side.from_guest(packet)
    except struct.error:
        pass  # the back end drops this guest's vsock for it


def test_the_guest_sees_no_index_that_is_half_written():
    """Of 255 and 256, written byte by byte, a reader on another processor would now and then see 0 or 511."""
    guest = _Guest()
    guest.ring.size = 256
    with mmap.mmap(guest.file, 1 << 20) as memory, memoryview(memory)[0x2002:0x2004].cast("H") as index:
        index[0] = 256
        if (child := os.fork()) == 0:
            seen = {index[0] for _ in range(3_000_000)}
            os._exit(0 if seen <= {255, 256} else 1)
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            for _ in range(1000):
                index[0] = 255
                guest.ring.push(0, 0)
    assert ended == (child, 0)
