"""What differs between two EIFs: by section, file and kind; archives of other builders are looked into as well."""

import gzip
import io
import json
import lzma
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nitrokit.core.eif import read_eif, write_eif
from nitrokit.image import cpio
from nitrokit.image.archive import entries
from nitrokit.image.difference import compare, section_pcrs
from nitrokit.image.errors import ImageError

TREE = {
    "app": cpio.folder(),
    "app/main.py": cpio.file(b"print(1)\nprint(2)\n"),
    "app/data": cpio.file(b"\0\1"),
    "app/link": cpio.link("main.py"),
    "gone": cpio.file(b"x"),
}
OTHER = {
    "app": cpio.folder(0o700),
    "app/main.py": cpio.file(b"print(1)\nprint(3)\n", 0o755),
    "app/data": cpio.file(b"\0\2"),
    "app/link": cpio.link("data"),
    "new": cpio.file(b"y"),
}


def _eif(ramdisk=None, **changes):
    file = io.BytesIO()
    arguments = {"kernel": b"k", "cmdline": "quiet", "metadata": {"ImageName": "x"}, **changes}
    write_eif(file, ramdisks=[cpio.write({"init": cpio.file(b"i", 0o755)}), cpio.write(TREE) if ramdisk is None else ramdisk], **arguments)
    return read_eif(file)


def _changes(section):
    return {(change.path, change.kind) for change in section.changes}


def test_a_signature_is_pcr8_and_metadata_is_nothings():
    assert [section_pcrs(name) for name in ("signature", "metadata", "header", "cmdline", "ramdisk0", "ramdisk2")] == [
        ("PCR8",), (), (), ("PCR0", "PCR1"), ("PCR0", "PCR1"), ("PCR0", "PCR2"),
    ]  # fmt: skip


def test_the_same_image_differs_in_nothing():
    assert compare(_eif(), _eif()) == []


def test_every_kind_of_change_of_a_file_is_named():
    (section,) = compare(_eif(), _eif(cpio.write(OTHER)))
    assert (section.name, section.pcrs) == ("ramdisk1", ("PCR0", "PCR2"))
    assert _changes(section) == {
        ("app", "mode"), ("app/main.py", "mode"), ("app/main.py", "content"), ("app/data", "content"), ("app/link", "link"), ("gone", "removed"), ("new", "added"),
    }  # fmt: skip
    content = next(change for change in section.changes if (change.path, change.kind) == ("app/main.py", "content"))
    assert [line for line in content.diff if line[0] in "+-"] == ["-print(2)", "+print(3)"]
    assert next(change for change in section.changes if change.path == "app/data").diff == ()


@pytest.mark.parametrize(
    ("changes", "name", "pcrs"),
    [
        ({"kernel": b"other"}, "kernel", ("PCR0", "PCR1")), ({"cmdline": "loud"}, "cmdline", ("PCR0", "PCR1")), ({"metadata": {"ImageName": "y"}}, "metadata", ()),
        ({"arch": "aarch64"}, "header", ()),
    ],
)  # fmt: skip
def test_sections_and_what_they_move(changes, name, pcrs):
    (section,) = compare(_eif(), _eif(**changes))
    assert (section.name, section.pcrs) == (name, pcrs)


def test_more_ramdisks():
    file = io.BytesIO()
    write_eif(
        file,
        kernel=b"k",
        cmdline="quiet",
        metadata={"ImageName": "x"},
        ramdisks=[cpio.write({"init": cpio.file(b"i", 0o755)}), cpio.write(TREE), b""],
    )
    (section,) = compare(_eif(), read_eif(file))
    assert (section.name, section.before, section.pcrs) == ("ramdisk2", None, ("PCR0", "PCR2"))


@pytest.mark.parametrize("pack", [lambda data: gzip.compress(data, mtime=0), lzma.compress, lambda data: bytes(512) + data])
def test_the_same_files_packed_otherwise(pack):
    (section,) = compare(_eif(), _eif(pack(cpio.write(TREE))))
    assert section.changes == ()
    assert "the same files" in (section.note or "")


def test_owners_times_and_devices_of_other_builders():
    def newc(uid, rdev, mtime):
        fields = (1, stat.S_IFCHR | 0o600, uid, 0, 1, mtime, 0, 0, 0, 5, rdev, 8, 0)
        return b"070701" + b"".join(b"%08X" % field for field in fields) + b"./dev/x\0" + bytes(2) + cpio.write({})

    (section,) = compare(_eif(newc(0, 1, 0)), _eif(newc(7, 2, 9)))
    assert _changes(section) == {("dev/x", "owner"), ("dev/x", "device")}
    (only_times,) = compare(_eif(newc(0, 1, 0)), _eif(newc(0, 1, 9)))
    assert "times" in (only_times.note or "")


@pytest.mark.parametrize(
    "data", [b"noise", b"070701" + b"z" * 200, gzip.compress(b"x" * 100)[:-4], cpio.write({"a": cpio.file(b"x" * 999)})[:400]]
)
def test_what_cannot_be_looked_into_says_why(data):
    with pytest.raises(ImageError):
        entries(data)
    (section,) = compare(_eif(), _eif(data))
    assert section.changes == () and section.note


def test_archives_behind_each_other_are_all_seen_and_the_last_wins():
    both = cpio.write({"a": cpio.file(b"1")}) + cpio.write({"a": cpio.file(b"2"), "b": cpio.file(b"3")})
    assert {path: bytes(entry.data) for path, entry in entries(both).items()} == {"a": b"2", "b": b"3"}


def _run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nitrokit.cli", "explain", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done


def _write(path: Path, ramdisk, **changes):
    with path.open("w+b") as file:
        measured = write_eif(file, kernel=b"k", cmdline="c", metadata={}, ramdisks=[cpio.write({}), ramdisk], **changes)
    return measured


def test_the_command_tells_people_and_machines(tmp_path):
    one, other = tmp_path / "one.eif", tmp_path / "other.eif"
    measured = _write(one, cpio.write(TREE))
    _write(other, cpio.write(OTHER))
    done = _run(one, other)
    assert (done.returncode, "PCR0" in done.stdout, "PCR2" in done.stdout, "PCR1 " in done.stdout, "-print(2)" in done.stdout) == (
        1,
        True,
        True,
        False,
        True,
    )
    told = json.loads(_run(one, other, "--json").stdout)
    assert set(told["pcrs"]) == {"PCR0", "PCR2"}
    assert {change["kind"] for change in told["sections"][0]["changes"]} == {"added", "removed", "mode", "content", "link"}
    assert _run(one, one).returncode == 0
    lock = tmp_path / "measurements.json"
    lock.write_text(measured.to_json())
    assert (_run(lock, one).returncode, _run(lock, other).returncode) == (0, 1)
    for wrong in (tmp_path / "none.eif", tmp_path / "none.json", tmp_path):
        assert _run(one, wrong).returncode == 2
