"""The EIF: reading, writing, describing; every malformed file is a named error."""

import io
import json
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core import measurements as m
from nitrokit.core.eif import EifError, SectionType, read_eif, write_eif
from nitrokit.core.eif.source import CHUNK, Source

K, C, R, S, M = SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK, SectionType.SIGNATURE, SectionType.METADATA
PLAIN = [(K, b"kernel"), (C, b"cmdline"), (M, b"{}"), (R, b"init"), (R, b"app")]


def build(sections=PLAIN, *, version=4, flags=0, count=None, magic=b".eif", table=(), section_flags=0, crc=None, tail=b""):
    """An EIF byte by byte from the format's description, so that any field can be wrong."""
    offsets, sizes, body = [0] * 32, [0] * 32, b""
    for number, (kind, data) in enumerate(sections):
        offsets[number], sizes[number] = 548 + len(body), len(data)
        body += struct.pack(">HHQ", kind, section_flags, len(data)) + data
    for name, number, value in table:
        {"offset": offsets, "size": sizes}[name][number] = value
    header = struct.pack(">4sHHQQHH", magic, version, flags, 1 << 30, 2, 0, len(sections) if count is None else count)
    header += struct.pack(">32Q32QI", *offsets, *sizes, 0)
    checksum = zlib.crc32(header + body) if crc is None else crc
    return header + struct.pack(">I", checksum) + body + tail


def _slug(data):
    with pytest.raises(EifError) as caught:
        read_eif(data)
    return caught.value.slug


def test_the_measurements_are_those_of_the_formats_description():
    """aws-nitro-enclaves-image-format:README.md "EIF Measurements"."""
    eif = read_eif(build())
    assert eif.measurements == m.Measurements(m.digest([b"kernelcmdlineinitapp"]), m.digest([b"kernelcmdlineinit"]), m.digest([b"app"]))
    assert (eif.version, eif.arch, eif.cmdline, eif.read(eif.kernel), [eif.read(one) for one in eif.ramdisks]) == (
        4,
        "x86_64",
        "cmdline",
        b"kernel",
        [b"init", b"app"],
    )


def test_one_ramdisk_measures_nothing_as_pcr2():
    found = read_eif(build(PLAIN[:4])).measurements
    assert (found.pcr0, found.pcr2) == (found.pcr1, m.EMPTY_PCR2)


def test_three_ramdisks_and_metadata_anywhere():
    eif = read_eif(build([(M, b"{}"), *PLAIN[:2], (R, b"init"), (R, b"a"), (R, b"b")]))
    assert eif.measurements.pcr2 == m.digest([b"ab"])


@pytest.mark.parametrize(("version", "sections"), [(2, [PLAIN[0], PLAIN[1], PLAIN[3]]), (3, [PLAIN[0], PLAIN[1], PLAIN[3]]), (4, PLAIN)])
def test_all_public_versions_are_read(version, sections):
    assert read_eif(build(sections, version=version)).version == version


def test_both_architectures():
    assert read_eif(build(flags=1)).arch == "aarch64"


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (b"", "truncated"), (bytes(547), "truncated"), (bytes(548), "bad-magic"), (build(magic=b".elf"), "bad-magic"), (build(version=1), "version"), (build(version=5), "version"),
        (build(flags=2), "flags"), (build(count=1), "section-count"), (build(count=33), "section-count"), (build(count=6), "truncated"), (build(count=4), "trailing-bytes"),
        (build(tail=b"x"), "trailing-bytes"), (build(table=[("offset", 1, 1)]), "table"), (build(table=[("size", 4, 4)]), "table"), (build(section_flags=1), "section-flags"),
        (build([*PLAIN, (0, b"")]), "section-type"), (build([*PLAIN, (6, b"")]), "section-type"), (build(PLAIN[1:]), "missing-section"), (build([PLAIN[0], *PLAIN[2:]]), "missing-section"),
        (build(PLAIN[:3]), "missing-section"), (build([*PLAIN[:2], *PLAIN[3:]]), "missing-section"), (build([*PLAIN, PLAIN[0]]), "duplicate-section"),
        (build([*PLAIN, PLAIN[1]]), "duplicate-section"), (build([*PLAIN, PLAIN[2]]), "duplicate-section"), (build([*PLAIN, (S, b""), (S, b"")]), "duplicate-section"),
        (build([PLAIN[3], *PLAIN[:3]]), "section-order"), (build([PLAIN[1], PLAIN[0], *PLAIN[2:]]), "section-order"), (build([PLAIN[0], *PLAIN[2:], PLAIN[1]]), "section-order"),
        (build(crc=1), "crc"), (build([*PLAIN[:2], (M, b"{"), *PLAIN[3:]]), "metadata"), (build([*PLAIN[:2], (M, b"[]"), *PLAIN[3:]]), "metadata"),
        (build([*PLAIN[:2], (M, b"[" * 100_000), *PLAIN[3:]]), "metadata"), (build([*PLAIN[:2], (M, bytes((1 << 20) + 1)), *PLAIN[3:]]), "section-size"),
        (build([PLAIN[0], (C, bytes((1 << 16) + 1)), *PLAIN[2:]]), "section-size"), (build([*PLAIN, (S, bytes(32769))]), "section-size"),
    ],
)  # fmt: skip
def test_every_malformed_file_has_a_name(data, slug):
    assert _slug(data) == slug


def test_a_section_that_claims_more_than_the_file_has():
    huge = build(table=[("size", 4, 1 << 62)])
    at = len(huge) - len(b"app") - 8
    assert _slug(huge[:at] + struct.pack(">Q", 1 << 62) + huge[at + 8 :]) == "truncated"


def test_every_changed_byte_and_every_truncation_is_refused(small_eif):
    for at in range(len(small_eif)):
        changed = bytearray(small_eif)
        changed[at] ^= 0x40
        _slug(bytes(changed))
        _slug(small_eif[:at])


@given(st.binary(max_size=700))
def test_any_bytes_behind_a_good_start_are_our_error(data):
    with pytest.raises(EifError):
        read_eif(build()[:28] + data)


@given(
    st.binary(max_size=80),
    st.text(max_size=20),
    st.lists(st.binary(max_size=50), min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    st.sampled_from(["x86_64", "aarch64"]),
)
def test_what_is_written_is_read(kernel, cmdline, ramdisks, metadata, arch):
    file = io.BytesIO()
    measured = write_eif(file, kernel=kernel, cmdline=cmdline, ramdisks=ramdisks, metadata=metadata, arch=arch)
    eif = read_eif(file)
    assert [eif.read(one) for one in eif.ramdisks] == ramdisks
    assert (eif.arch, eif.read(eif.kernel), eif.cmdline, eif.metadata, eif.measurements) == (arch, kernel, cmdline, metadata, measured)
    assert [section.type for section in eif.sections] == [K, C, M] + [R] * len(ramdisks), "in the order of AWS's builder"


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [({"ramdisks": []}, "section-count"), ({"ramdisks": [b""] * 30}, "section-count"), ({"arch": "riscv"}, "architecture"), ({"cmdline": "x" * 70_000}, "section-size"),
    ({"metadata": {"x": "y" * (1 << 20)}}, "section-size")],
)  # fmt: skip
def test_what_would_not_be_an_eif_is_not_written(arguments, slug):
    with pytest.raises(EifError) as caught:
        write_eif(io.BytesIO(), **{"kernel": b"k", "cmdline": "c", "ramdisks": [b"r"], "metadata": {}, **arguments})
    assert caught.value.slug == slug


def test_large_sections_are_hashed_alike_from_memory_and_file_in_little_memory(tmp_path):
    """Threads and chunks change nothing; what is held is bounded, not the file's size."""
    big, other = bytes(range(256)) * (16 << 10), b"\xa5" * (5 * CHUNK + 7)
    path = tmp_path / "big.eif"
    with path.open("w+b") as file, io.BytesIO(other) as second:
        written = write_eif(file, kernel=b"k" * 70_000, cmdline="c", ramdisks=[big, second, b"small", big], metadata={})
    expected = m.Measurements(
        m.digest([b"k" * 70_000, b"c", big, other, b"small", big]), m.digest([b"k" * 70_000, b"c", big]), m.digest([other, b"small", big])
    )
    assert read_eif(path.read_bytes()).measurements == written == expected
    with path.open("rb") as file:
        tracemalloc.start()
        eif = read_eif(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert eif.measurements == expected
        assert eif.read(eif.ramdisks[1]) == other
    assert peak < 30 * CHUNK


def test_a_file_that_shrinks_while_it_is_read_is_our_error(tmp_path):
    path = tmp_path / "x.eif"
    path.write_bytes(build([*PLAIN[:4], (R, bytes(3 * CHUNK))]))
    with path.open("r+b") as file:
        eif = read_eif(file)
        file.truncate(600)
        with pytest.raises(EifError) as caught:
            eif.read(eif.ramdisks[1])
    assert caught.value.slug == "truncated"


def test_threads_end_when_reading_fails(monkeypatch):
    import threading

    data = build([*PLAIN[:4], (R, bytes(3 * CHUNK))])
    real = Source.read
    monkeypatch.setattr(Source, "read", lambda self, offset, size: real(self, offset, size if offset < CHUNK else size + CHUNK * 9))
    before = threading.active_count()
    assert _slug(data) == "truncated"
    assert threading.active_count() == before


def test_describe_has_the_keys_of_nitro_cli(small_eif):
    """aws-nitro-enclaves-cli:src/common/json_output.rs."""
    description = read_eif(small_eif).describe()
    assert list(description) == ["EifVersion", "Measurements", "IsSigned", "CheckCRC", "ImageName", "ImageVersion", "Metadata"]
    assert list(description["Measurements"]) == ["HashAlgorithm", "PCR0", "PCR1", "PCR2"]
    assert (description["ImageName"], description["Metadata"]) == ("small", {"BuildTool": "t", "DockerInfo": None})


def test_describe_takes_odd_metadata_as_it_is():
    odd = {"ImageName": 5, "BuildMetadata": [], "CustomMetadata": {"a": 1}, "DockerInfo": {"x": 1}}
    description = read_eif(build([*PLAIN[:2], (M, json.dumps(odd).encode()), *PLAIN[3:]])).describe()
    assert description["Metadata"] == {"DockerInfo": {"x": 1}, "a": 1}
    assert "Metadata" not in read_eif(build([PLAIN[0], PLAIN[1], PLAIN[3]], version=3)).describe()
