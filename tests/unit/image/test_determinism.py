"""One image, built in many worlds: the same bytes. What is shared is the cache's downloads alone; ramdisk 0 is made anew each time."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

from nitrokit.core.eif import read_eif
from nitrokit.image import cpio
from nitrokit.image.architecture import ARCHITECTURES, here
from nitrokit.image.base import python_tree
from nitrokit.image.fetch import cache_dir

ROOT = Path(__file__).parents[3]
BUILD = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[5], 8))
from nitrokit.image.build import build_image
from nitrokit.image.kernel import find_kernel
folder, blobs, output, cache = map(Path, sys.argv[1:5])
build_image(folder, kernel=find_kernel({"NITROKIT_BLOBS": str(blobs)}, cache, print, arch=sys.argv[6]), output=output, cache=cache, progress=lambda _: None)
"""
MANIFEST = """[enclave]
name = "x"
compression = "zstd"
[rootfs]
path = "root"
[app]
source = "app"
working_directory = "/app"
command = ["/usr/bin/tool", "ß"]
user = "7"
environment = { X = "ä" }
"""
FILES = {
    "root/usr/bin/tool": b"tool",
    "root/etc/passwd": b"app:x:7:7::/:/x\n",
    "root/srv/ä": b"umlaut",
    "root/srv/b": b"b" * 70_000,
    "app/main.py": b"print()\n",
    "app/lib/x.py": b"x = {1, 2}\n",
    "app/ö": b"umlaut",
}


@pytest.fixture(scope="module")
def world():
    """A folder that any user may enter, with blobs and a cache that holds the downloads."""
    with tempfile.TemporaryDirectory(prefix="nitrokit-determinism-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "blobs").mkdir()
        (folder / "blobs/bzImage").write_bytes(b"kernel")
        (folder / "blobs/Image").write_bytes(b"arm kernel")
        for arch in ARCHITECTURES:
            python_tree(arch, cache=cache_dir(os.environ), progress=lambda _: None)  # the downloads are there now
        for part in ("sha256", "wheels"):
            shutil.copytree(cache_dir(os.environ) / part, folder / "downloads" / part, copy_function=_copy)
        yield folder


def _copy(source, target):
    shutil.copyfile(source, target)


def _make(folder, names):
    """The image folder, its files created in this order."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
        path.chmod(0o755 if name.endswith("tool") else 0o644)
    (folder / "root/link").symlink_to("usr/bin/tool")
    (folder / "root/ü").symlink_to("srv/ä")
    (folder / "enclave.toml").write_text(MANIFEST, encoding="utf-8")
    return folder


def _build(world, name, image, *, python=(sys.executable,), umask="022", arch="x86_64", **environment):
    """The EIF's bytes. ``python``: the command that interprets."""
    work = world / name
    work.mkdir()
    shutil.copytree(world / "downloads", work / "cache")
    _open_to_all(work)
    output = work / "x.eif"
    command = [*python, "-c", BUILD, str(image), str(world / "blobs"), str(output), str(work / "cache"), umask, arch]
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "constructs"), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work, env=settings, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return output.read_bytes()


def _open_to_all(folder):
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o644)


@pytest.fixture(scope="module")
def reference(world):
    return _build(world, "reference", _make(world / "reference-image", FILES))


def test_path_order_umask_time_zone_locale_and_file_system_do_not_matter(world, reference):
    image = _make(world / "another place" / "ñ", reversed(FILES))
    for path in image.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or path.name == "tool" else 0o600)
            os.utime(path, (1, 1))
    settings = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "5", "LANGUAGE": "de"}
    assert _build(world, "moods", image, umask="077", **settings) == reference
    with tempfile.TemporaryDirectory(prefix="nitrokit-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        assert _build(world, "memory", _make(Path(name) / "x", sorted(FILES)), LC_ALL="C.UTF-8", TMPDIR=name) == reference


def test_a_locale_that_is_not_utf_8_does_not_matter(world, reference):
    """Names on disk and texts are bytes; ISO 8859-1 takes the two of an umlaut for two letters."""
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/charmaps/ISO-8859-1.gz").is_file():
        pytest.skip("no localedef here, or no locales' sources")
    (world / "locales").mkdir()
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(world / "locales/latin")], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    settings = {"LOCPATH": str(world / "locales"), "LC_ALL": "latin"}
    probe = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    assert subprocess.run(probe, capture_output=True, check=True, env=settings).stdout == b"iso8859-1\n"
    assert _build(world, "latin", _make(world / "latin-image", FILES), **settings) == reference


def test_what_version_control_does_not_keep_does_not_matter(world, reference):
    """Another checkout has no folders without files; running the app leaves compiled modules."""
    image = _make(world / "used", FILES)
    (image / "app/gone/deep").mkdir(parents=True)
    (image / "app/gone/__pycache__").mkdir()
    (image / "app/gone/__pycache__/x.cpython-311.pyc").write_bytes(b"x")
    (image / "app/__pycache__").mkdir()
    (image / "app/__pycache__/main.cpython-311.pyc").write_bytes(b"x")
    assert _build(world, "used-build", image) == reference


def test_another_user_builds_the_same(world, reference):
    """Nobody, who owns neither the files nor the folder; with the right to read the interpreter's, which may lie in root's home."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody else, by setpriv")
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", *reading]
    probe = subprocess.run([*nobody, sys.executable, "-c", "import os; print(os.getuid())"], capture_output=True, text=True, check=False)
    if probe.stdout != "65534\n":
        pytest.skip(f"nobody cannot run Python here: {probe.stderr[-200:]}")
    image = _make(world / "somebody's", FILES)
    _open_to_all(image / "app")
    assert _build(world, "nobody", image, python=(*nobody, sys.executable), HOME="/nonexistent") == reference


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_every_python_builds_the_same(world, reference, minor, tmp_path):
    python = _find_python(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} here")
    pins = [f"{name}=={version(name)}" for name in ("cbor2", "cffi", "cryptography", "pycparser", "zstandard")]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", f"3.{minor}", "--target", str(tmp_path / "site"), *pins,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode:
        pytest.skip(f"no wheels for Python 3.{minor}: {done.stderr[-300:]}")
    path = os.pathsep.join([str(ROOT / "constructs"), str(tmp_path / "site")])
    assert (
        _build(world, f"python3.{minor}", _make(world / f"image-{minor}", FILES), python=(str(python), "-s"), PYTHONPATH=path) == reference
    )


def _find_python(minor):
    """Another installation's than the one that runs the tests: on PATH, or pyenv's."""
    found = [shutil.which(f"python3.{minor}", path=os.defpath), *sorted((Path.home() / ".pyenv/versions").glob(f"3.{minor}.*/bin/python3"))]
    return next(
        (
            one
            for one in found
            if one and subprocess.run([one, "-c", "import zlib, lzma"], capture_output=True, check=False).returncode == 0
        ),
        None,
    )


def test_an_image_of_the_other_architecture_is_built_here_and_is_the_same_each_time(world, reference):
    """Not booted: QEMU's machine is x86_64. Its programs are the other's, its compiled modules the very same."""
    other = next(arch for arch in ARCHITECTURES if arch != here())
    image = _make(world / "other-image", FILES)
    (image / "enclave.toml").write_text(MANIFEST.replace('name = "x"', f'name = "x"\narch = "{other}"'))
    one = _build(world, "other-1", image, arch=other)
    assert one == _build(world, "other-2", image, arch=other, umask="077", TZ="Asia/Kathmandu")
    trees = {read_eif(data).arch: dict(cpio.read(read_eif(data).read(read_eif(data).ramdisks[0]))) for data in (one, reference)}
    for arch, tree in trees.items():
        machine = int.from_bytes(tree["usr/bin/python3.11"].data[18:20], "little")
        assert machine == ARCHITECTURES[arch].machine
    compiled = [{path: node for path, node in tree.items() if path.startswith("usr/lib/nitrokit/")} for tree in trees.values()]
    assert compiled[0] == compiled[1]
    assert len(compiled[0]) > 20
