"""Locks that were edited by hand, or by somebody who wants a build to do more than fetch pinned files."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from nitrokit.image import base
from nitrokit.image.errors import LockError
from nitrokit.image.fetch import fetch_wheels
from nitrokit.image.lock import read_package_lock
from nitrokit.image.requirements import read_requirements

PIN = "0" * 64


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "/etc/hostname"},
        {"sha256": "../../x"},
        {"sha256": "A" * 64},
        {"sha256": PIN + "\n"},
        {"path": "/etc/passwd"},
        {"path": "pool/../../x.deb"},
        {"path": "pool/x.deb?y"},
        {"path": ""},
    ],
)
def test_a_package_lock_names_files_of_the_pool_by_hash_alone(tmp_path, change):
    """Its hash is a name in the cache: ``/home/you/file`` would be written to and emptied."""
    package = {"name": "x", "version": "1", "path": "pool/main/g/g++/g++_1%3a2~b_amd64.deb", "sha256": PIN}
    lock = tmp_path / "packages.lock.json"
    lock.write_text(json.dumps({"suite": "bookworm", "arch": "x86_64", "packages": [package]}))
    assert read_package_lock(lock).packages[0].sha256 == PIN
    lock.write_text(json.dumps({"suite": "bookworm", "arch": "x86_64", "packages": [package | change]}))
    with pytest.raises(LockError) as caught:
        read_package_lock(lock)
    assert caught.value.code == "lock/torn"


def _evil(folder):
    """A source package that pip would run: its build backend is its own, and leaves a mark."""
    source = folder / "evil-1"
    source.mkdir()
    (source / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n')
    (source / "backend.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    with tarfile.open(folder / "evil-1.tar.gz", "w:gz") as archive:
        archive.add(source, "evil-1")
    return hashlib.sha256((folder / "evil-1.tar.gz").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        "--no-index\n--find-links {folder}\n--no-binary :all:\nevil==1 --hash=sha256:{sha256}",
        "evil @ file://{folder}/evil-1.tar.gz --hash=sha256:{sha256}",
        "{folder}/evil-1.tar.gz --hash=sha256:{sha256}",
        "--find-links={folder} # comment \\\n--no-binary=:all: \nevil==1 --hash=sha256:{sha256}",
        "-r {folder}/others.txt",
        "--index-url https://example.com/${{HOME}}/simple",
        'evil==1 ; python_version >= "3.12" --hash=sha256:{sha256}',
        "evil==1",
        "evil>=1 --hash=sha256:{sha256}",
        "evil==1 --hash=md5:{sha256}",
    ],
)
def test_a_requirements_file_runs_nothing_and_asks_nobody_else(tmp_path, line):
    sha256 = _evil(tmp_path)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(line.format(folder=tmp_path, sha256=sha256) + "\n")
    with pytest.raises(LockError) as caught:
        fetch_wheels(requirements, python="3.11", arch="x86_64", cache=tmp_path / "cache")
    assert caught.value.code == "lock/requirement"
    assert not (tmp_path / "ran").exists()


def test_requirements_are_read_in_the_forms_that_resolvers_write(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text(
        f"# by a tool\nCbor2==6.3.0 \\\n    --hash=sha256:{PIN} \\\n    --hash=sha256:{'1' * 64}\n    # via x\nb[c]==1!2.0+d --hash=sha256:{PIN}\n"
    )
    one, other = read_requirements(path)
    assert (one.name, one.version, one.sha256s) == ("Cbor2", "6.3.0", (PIN, "1" * 64))
    assert str(other) == f"b==1!2.0+d --hash=sha256:{PIN}"
    for arch in ("x86_64", "aarch64"):
        assert len(read_requirements(base.requirements_path(arch))) > 4


def test_a_missing_requirements_file_is_told(tmp_path):
    with pytest.raises(LockError) as caught:
        fetch_wheels(tmp_path / "requirements.txt", python="3.11", arch="x86_64", cache=tmp_path)
    assert caught.value.code == "lock/missing"


def _wheel(folder, name, content=b""):
    """Empty, but a wheel to pip."""
    import zipfile

    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", ["gone", "other", "more"])
def test_a_cache_that_lost_or_gained_a_wheel_is_filled_anew(tmp_path, monkeypatch, damage):
    """By the real pip, offline. Without the check the image would be built without the wheel."""
    index = tmp_path / "index"
    index.mkdir()
    pins = {name: _wheel(index, name) for name in ("one", "two")}
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(name, value)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("".join(f"{name}==1 --hash=sha256:{sha256}\n" for name, sha256 in pins.items()))

    def fetch() -> list[Path]:
        return fetch_wheels(requirements, python="3.11", arch="x86_64", cache=tmp_path / "cache")

    first = fetch()
    assert [path.name for path in first] == ["one-1-py3-none-any.whl", "two-1-py3-none-any.whl"]
    if damage == "gone":
        first[0].unlink()
    elif damage == "other":
        first[0].write_bytes(b"other")
    else:
        _wheel(first[0].parent, "three")
    assert fetch() == first
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in fetch()} == set(pins.values())
