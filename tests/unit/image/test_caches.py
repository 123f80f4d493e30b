"""What is kept between builds: only what is still true is taken, on an image that takes no time (AWS's init)."""

import os
import shutil
from pathlib import Path

import pytest

from nitrokit.image import base, cached
from nitrokit.image.cached import build_cached
from nitrokit.image.errors import ImageError
from nitrokit.image.fetch import cache_dir
from nitrokit.image.files import sha256_of
from nitrokit.image.kernel import find_kernel


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "image"
    (folder / "tree/opt/empty").mkdir(parents=True)
    (folder / "tree/opt/tool").write_bytes(b"tool")
    (folder / "tree/opt/tool").chmod(0o755)
    (folder / "tree/opt/other").mkdir()
    (folder / "tree/link").symlink_to("opt/tool")
    (folder / "tree/folder").symlink_to("opt/empty")
    (folder / "enclave.toml").write_text('[enclave]\nname = "x"\ninit = "aws"\n[rootfs]\npath = "tree"\n[app]\ncommand = ["/opt/tool"]\n')
    return folder


@pytest.fixture
def build(image, tmp_path):
    for name in ("bzImage", "init"):
        (tmp_path / name).write_bytes(b"x")
    blobs = find_kernel({"NITROKIT_BLOBS": str(tmp_path)}, tmp_path, print)
    return lambda: build_cached(image, kernel=blobs, cache=tmp_path / "cache", progress=lambda _: None)[0]


def _relink(image, name, target):
    (image / "tree" / name).unlink()
    (image / "tree" / name).symlink_to(target)


CHANGES = {
    "content": lambda image: (image / "tree/opt/tool").write_bytes(b"another"),
    "a link's target": lambda image: _relink(image, "link", "opt/../opt/tool"),
    "the target of a link to a folder": lambda image: _relink(image, "folder", "opt/other"),
    "a link that leads nowhere": lambda image: _relink(image, "link", "nowhere"),
    "an empty folder": lambda image: (image / "tree/new").mkdir(),
    "a folder's sticky bit": lambda image: (image / "tree/opt").chmod(0o1777),
    "a name that is not UTF-8": lambda image: open(os.fsencode(image / "tree") + b"/\xff\n", "w").close(),
    "a file of the same name elsewhere": lambda image: (image / "tree/opt/tool").rename(image / "tree/opt/other/tool") and shutil.copy(image / "tree/opt/other/tool", image / "tree/opt/tool"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_folder_is_seen(image, build, change):
    """Else the template, and `nitrokit explain`, would be of an image that is no more."""
    before = build()
    assert build().eif == before.eif, "nothing has changed"
    CHANGES[change](image)
    after = build()
    assert after.eif != before.eif
    assert after.measurements != before.measurements


def _move_out(image, name):
    """To beside the image folder, with a link in its place; its new place."""
    outside = image.parent / f"outside-{Path(name).name}"
    (image / name).rename(outside)
    (image / name).symlink_to(outside)
    return outside


@pytest.mark.parametrize("name", ["enclave.toml", "tree"])
def test_what_a_link_names_elsewhere_is_refused_as_no_change_of_it_would_be_seen(image, build, name):
    outside = _move_out(image, name)
    with pytest.raises(ImageError, match=f"leads out of the image folder: {name}") as caught:
        build()
    assert (caught.value.code, caught.value.got) == ("image/outside", str(outside))


@pytest.mark.parametrize(
    ("source", "extra", "name"),
    [
        ('[oci]\npath = "image.tar"', "", "image.tar"),
        ('[eif]\npath = "image.eif"', "", "image.eif"),
        ('[dockerfile]\npath = "Dockerfile"', "", "Dockerfile"),
        ('[dockerfile]\ncontext = "context"', "", "context"),
        ('[rootfs]\npath = "deep/tree.tar"', "", "deep"),
        ('[rootfs]\npath = "tree"', 'source = "app"', "app"),
        ('[rootfs]\npath = "tree"', '[signing]\ncertificate = "cert.pem"\nkms_key = "arn:aws:kms:eu-west-1:123456789012:key/x"', "cert.pem"),
        ('[packages]\nsuite = "bookworm"\ninclude = ["dash"]', 'source = "app"', "packages.lock.json"),
        ('[packages]\nsuite = "bookworm"\ninclude = ["dash"]\nrequirements = "requirements.txt"', 'source = "app"', "requirements.txt"),
    ],
)  # fmt: skip
def test_whatever_enclave_toml_names_lies_below_its_folder(image, build, source, extra, name):
    command = "" if source.startswith("[eif]") else f'[app]\ncommand = ["/opt/tool"]\n{extra}\n'
    init = "nitrokit" if source.startswith("[packages]") else "aws"
    (image / "enclave.toml").write_text(f'[enclave]\nname = "x"\ninit = "{init}"\n{source}\n{command}')
    (image / name).mkdir()
    _move_out(image, name)
    with pytest.raises(ImageError, match="leads out of the image folder"):
        build()


def test_a_link_within_the_folder_is_followed_and_seen_to_change(image, build):
    (image / "tree").rename(image / "real")
    (image / "tree").symlink_to("real")
    before = build()
    (image / "real/opt/tool").write_bytes(b"another")
    assert build().measurements != before.measurements


@pytest.mark.parametrize("module", ["errors.py", "_version.py", "core/boot.py", "runtime/init.py", "image/base/base.toml"])
def test_every_change_of_nitrokit_is_seen(image, build, tmp_path, monkeypatch, module):
    package = tmp_path / "nitrokit"
    shutil.copytree(cached._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cached, "_PACKAGE", package)
    before = build()
    assert build().eif == before.eif
    with (package / module).open("a") as file:
        file.write("# changed\n")
    assert build().eif != before.eif


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", None])
def test_a_torn_entry_is_built_again(build, damage):
    """A record, or (None) the image itself: cut off, though the record is there."""
    whole = build()
    content = whole.eif.read_bytes()
    if damage is None:
        whole.eif.write_bytes(content[:-1])
    else:
        (whole.eif.parent / "built.json").write_bytes(damage)
    again = build()
    assert (again.eif.read_bytes(), again.measurements) == (content, whole.measurements)


def test_an_image_that_was_changed_behind_its_times_is_built_again(build):
    whole = build()
    content, times = whole.eif.read_bytes(), whole.eif.stat()
    with whole.eif.open("r+b") as file:
        file.write(b"x")
    os.utime(whole.eif, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (whole.eif.stat().st_mtime_ns, whole.eif.stat().st_size) == (times.st_mtime_ns, times.st_size)
    assert build().eif.read_bytes() == content


def test_an_image_is_read_again_only_where_somebody_touched_it(build, monkeypatch):
    """It may have a gigabyte. A cache that was copied here is read, and taken."""
    read: list[str] = []

    def noted(path):
        read.append(path.suffix)
        return sha256_of(path)

    monkeypatch.setattr(cached, "sha256_of", noted)
    whole = build()
    read.clear()
    build()
    assert ".eif" not in read
    copied = whole.eif.with_name("copied")
    shutil.copy(whole.eif, copied)
    copied.replace(whole.eif)
    monkeypatch.setattr(cached, "build_image", None)
    assert (build().measurements, read.count(".eif")) == (whole.measurements, 1)


def test_a_torn_ramdisk_0_is_made_again(kernel, tmp_path):
    """It is measured: a lock would take it for what PCR1 should be."""
    for part in ("sha256", "wheels"):
        shutil.copytree(cache_dir(os.environ) / part, tmp_path / part)
    path = base.bootstrap_ramdisk(kernel, "x86_64", cache=tmp_path, progress=lambda _: None)
    content = path.read_bytes()
    for damaged in (b"", content[:-1] + b"x"):
        path.write_bytes(damaged)
        assert base.bootstrap_ramdisk(kernel, "x86_64", cache=tmp_path, progress=lambda _: None).read_bytes() == content
