"""Archives that go into an image: what is refused, and that what is written is read."""

import gzip
import io
import lzma
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.image import cpio, decompression, unpack
from nitrokit.image.archive import entries
from nitrokit.image.decompression import uncompressed
from nitrokit.image.errors import ImageError
from nitrokit.image.unpack import add, unpack_deb, unpack_wheel

names = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(names, st.binary(max_size=600), max_size=5))
def test_cpio_round_trip_and_alignment(files):
    tree: dict[str, cpio.Node] = {}
    for path, data in files.items():
        add(tree, f"{path}-", cpio.file(data))  # no folder has such a name
    archive = cpio.write(tree)
    assert len(archive) % 512 == 0
    assert dict(cpio.read(archive)) == tree
    assert cpio.write(dict(reversed(tree.items()))) == archive, "the order of a dict must not matter"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_cpio_or_our_error(data):
    try:
        list(cpio.read(data))
    except ImageError:
        pass


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program here")
def test_the_cpio_program_reads_what_we_write(tmp_path):
    archive = cpio.write({"d": cpio.folder(), "d/f": cpio.file(b"content", 0o755), "l": cpio.link("d/f")})
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "l").read_text() == "content"
    assert (tmp_path / "d/f").stat().st_mode & 0o111


def _deb(path, *members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, kind, mode, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname = kind, mode, target
            archive.addfile(info, io.BytesIO(b""))
    blob = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", data.getvalue())):
        blob += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    path.write_bytes(blob)
    return path


@pytest.mark.parametrize(
    ("member", "slug"),
    [
        (("./../etc/passwd", tarfile.REGTYPE, 0o644, ""), "path-escape"), (("./usr/bin/su", tarfile.REGTYPE, 0o4755, ""), "setuid"), (("./dev/sda", tarfile.BLKTYPE, 0o600, ""), "device-node"),
        (("./x", tarfile.FIFOTYPE, 0o600, ""), "device-node"), (("./h", tarfile.LNKTYPE, 0o644, "./nowhere"), "hard-link"),
    ],
)  # fmt: skip
def test_a_package_with_something_dangerous_is_refused_by_name(tmp_path, member, slug):
    with pytest.raises(ImageError) as caught:
        unpack_deb(_deb(tmp_path / "bad_1_amd64.deb", member), {})
    assert caught.value.slug == slug


def test_a_damaged_package_is_our_error(tmp_path):
    path = _deb(tmp_path / "x.deb", ("./a", tarfile.REGTYPE, 0o644, ""))
    data = path.read_bytes()
    for length in (0, 7, 20, 70, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError):
            unpack_deb(path, {})


def test_links_of_folders_are_followed_inside_the_tree_alone():
    tree = {"lib": cpio.link("usr/lib"), "usr/lib": cpio.folder(), "out": cpio.link("../../etc"), "a": cpio.link("b"), "b": cpio.link("a")}
    add(tree, "lib/x.so", cpio.file(b""))
    assert "usr/lib/x.so" in tree
    with pytest.raises(ImageError):
        add(tree, "out/passwd", cpio.file(b""))
    with pytest.raises(ImageError) as caught:
        add(tree, "a/x", cpio.file(b""))
    assert caught.value.code == "image/link-loop"


@pytest.mark.parametrize("name", ["../x.py", "/etc/x", "a/../../x"])
def test_a_wheel_cannot_leave_its_folder(tmp_path, name):
    path = tmp_path / "bad-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "")
    with pytest.raises(ImageError):
        unpack_wheel(path, {}, "site")


def test_a_wheels_link_is_refused(tmp_path):
    path = tmp_path / "link-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ImageError) as caught:
        unpack_wheel(path, {}, "site")
    assert (caught.value.code, caught.value.got, path.name in caught.value.what) == ("image/wheel-link", "x", True)


@pytest.mark.parametrize("number", [b"-0000001", b"0x000001", b" 0000001", b"0_000001", b"0000000g", "０".encode() + b"00000"])
def test_a_cpio_header_holds_hexadecimal_digits_and_nothing_that_python_would_take_for_them(number):
    archive = bytearray(cpio.write({"a": cpio.file(b"x")}))
    archive[6 + 8 * 6 : 14 + 8 * 6] = number
    for read in (cpio.read, entries):
        with pytest.raises(ImageError):
            list(read(bytes(archive)))


def _wheel(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path


@pytest.mark.parametrize("damage", [(60, b"\xff" * 8), (0, b"PK\x03\x05")])
def test_a_damaged_wheel_is_our_error(tmp_path, damage):
    path = _wheel(tmp_path / "x-1-py3-none-any.whl", {"x/a.py": b"content " * 50})
    data = bytearray(path.read_bytes())
    data[damage[0] : damage[0] + len(damage[1])] = damage[1]
    path.write_bytes(data)
    with pytest.raises(ImageError):
        unpack_wheel(path, {}, "site")


def test_a_wheels_odd_names_are_our_error_or_a_file(tmp_path):
    with pytest.raises(ImageError):
        unpack_wheel(_wheel(tmp_path / "x-1-py3-none-any.whl", {"": b""}), {}, "site")
    tree: dict[str, cpio.Node] = {}
    unpack_wheel(_wheel(tmp_path / "y-1-py3-none-any.whl", {"y.data": b"", "y.data/purelib/z": b""}), tree, "site")
    assert {path for path, node in tree.items() if stat.S_ISREG(node.mode)} == {"site/y.data", "site/z"}


PACKERS = {"gzip": lambda data: gzip.compress(data, 9, mtime=0), "xz": lzma.compress, "zstd": lambda data: zstandard.compress(data, 19)}


@pytest.mark.parametrize("packing", PACKERS)
def test_compressed_streams_behind_each_other_are_one_and_a_cut_off_one_is_refused(packing):
    pack, content = PACKERS[packing], random.Random(0).randbytes(300_000) + bytes(300_000)
    with uncompressed(io.BytesIO(pack(content) * 2), "x") as contents:
        assert contents.read_all() == content * 2
    for cut in (1, 5, len(pack(content)) // 2):
        with pytest.raises(ImageError) as caught, uncompressed(io.BytesIO(pack(content)[:-cut]), "x.tar") as contents:
            contents.read_all()
        assert (caught.value.code, "x.tar" in str(caught.value)) == ("image/damaged", True)


@pytest.mark.parametrize("packing", PACKERS)
def test_a_decompression_bomb_is_refused_by_its_name_before_it_is_whole(packing, tmp_path, monkeypatch):
    monkeypatch.setattr(decompression, "_FREE", 1 << 20)
    bomb = PACKERS[packing](bytes(64 << 20))
    with pytest.raises(ImageError) as caught, uncompressed(io.BytesIO(bomb), "layer.tar.x") as contents:
        contents.read_all()
    assert caught.value.code == "image/bomb"
    assert "layer.tar.x" in str(caught.value)
    assert contents.size < 48 << 20


def test_a_packages_and_a_wheels_bomb_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(decompression, "_FREE", 1 << 20)
    monkeypatch.setattr(unpack, "MAX_UNPACKED", 32 << 20)
    deb = tmp_path / "bomb_1_amd64.deb"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        info = tarfile.TarInfo("./zeros")
        info.size = 64 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    packed = data.getvalue()
    deb.write_bytes(b"!<arch>\n" + f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(packed):<10}`\n".encode() + packed)
    wheel = _wheel(tmp_path / "bomb-1-py3-none-any.whl", {"zeros": bytes(64 << 20)})
    for unpacking in (lambda: unpack_deb(deb, {}), lambda: unpack_wheel(wheel, {}, "site")):
        with pytest.raises(ImageError) as caught:
            unpacking()
        assert caught.value.code == "image/bomb"
        assert "bomb" in caught.value.what.split()[0]


@pytest.mark.parametrize(
    ("tree", "slug"),
    [
        ({"a/b": cpio.file(b"")}, "no-folder"),
        ({"a": cpio.link("c"), "c": cpio.folder(), "a/b": cpio.file(b"")}, "no-folder"),
        ({"a": cpio.file(b""), "a/b": cpio.file(b"")}, "no-folder"),
        ({"a": cpio.link("")}, "link-target"),
        ({"a": cpio.link("x/" * 2048)}, "link-target"),
        ({"x" * 256: cpio.file(b"")}, "name-too-long"),
        ({"ä" * 128: cpio.file(b"")}, "name-too-long"),
        ({"/".join(["x" * 100] * count): cpio.folder() for count in range(1, 42)}, "name-too-long"),
    ],
)
def test_what_linux_would_leave_out_of_an_archive_or_put_elsewhere_is_refused(tree, slug):
    """It would be measured and not be there."""
    with pytest.raises(ImageError) as caught:
        cpio.write(tree)
    assert caught.value.slug == slug
    cpio.write({"x" * 255: cpio.folder(), "x" * 255 + "/y": cpio.file(b"")})


def test_a_path_with_empty_parts_is_the_same_file():
    """Two entries would be one file in the enclave, and only one of them looked at here."""
    tree: dict[str, cpio.Node] = {}
    for path in ("usr/bin/sh", "usr//bin/./sh", "./usr/bin//sh"):
        add(tree, path, cpio.file(path.encode()))
    assert sorted(tree) == ["usr", "usr/bin", "usr/bin/sh"]
    assert tree["usr/bin/sh"].data == b"./usr/bin//sh"


@pytest.mark.parametrize("other", [cpio.file(b"x"), cpio.link("x")])
def test_a_folder_is_not_replaced_by_something_else(other):
    """What is below it would be below a file, or somewhere else."""
    tree: dict[str, cpio.Node] = {}
    add(tree, "a/b", cpio.file(b""))
    with pytest.raises(ImageError) as caught:
        add(tree, "a", other)
    assert caught.value.slug == "conflict"


def test_xz_that_wants_a_dictionary_of_gigabytes_is_refused():
    """The size of a dictionary stands in the block's header (xz file format 5.3.1)."""
    data = bytearray(lzma.compress(b"x" * 100))
    assert data[14:16] == b"\x21\x01"
    data[16] = 36  # 1 GiB
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = zlib.crc32(bytes(data[12 : 12 + size - 4])).to_bytes(4, "little")
    with pytest.raises(ImageError) as caught, uncompressed(io.BytesIO(bytes(data)), "x") as contents:
        contents.read_all()
    assert "emory" in str(caught.value.got)
