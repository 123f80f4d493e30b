"""Modules compiled by the image's own Python: the same bytes in any folder, and the image imports what it needs from them."""

import shutil
import stat
import subprocess

import pytest

from nitrokit.core.eif import read_eif
from nitrokit.emulation.nitro.runners import extract
from nitrokit.image import bytecode, cpio
from nitrokit.image.bytecode import compile_modules
from nitrokit.image.errors import ImageError

FOLDERS = ("usr/lib/python3.11/",)


@pytest.fixture(scope="module")
def interpreter(trees):
    """Just the image's Python, whose few modules stand here as one source would: compiled ones serve as well."""
    tree = {path: node for path, node in trees[0].items() if path.startswith("usr/lib/x86_64-linux-gnu/") or path.startswith("usr/bin/")}
    sources = {
        path: node for path, node in trees[0].items() if path.startswith(("usr/lib/python3.11/os.", "usr/lib/python3.11/encodings/"))
    }
    return tree | sources


def test_every_module_that_is_imported_is_compiled(trees):
    for tree, root in ((trees[0], ""), (trees[1], "rootfs/")):
        below = tuple(f"{root}{folder}" for folder in ("usr/lib/python3.11/", "usr/lib/nitrokit-site/", "usr/lib/nitrokit/"))
        left = {path for path, node in tree.items() if path.endswith(".py") and path.startswith(below) and stat.S_ISREG(node.mode)}
        assert left == set()
        compiled = {node.data[:4] for path, node in tree.items() if path.endswith(".pyc")}
        assert compiled == {(3495).to_bytes(2, "little") + b"\r\n"}, "the magic number of Python 3.11, whatever Python builds"
    assert "rootfs/app/main.py" in trees[1], "the app is run by its path"


def test_the_folder_and_the_order_do_not_matter(interpreter, tmp_path):
    sources = {
        f"usr/lib/python3.11/m{number}.py": cpio.file(
            f"'''doc'''\nS = {{'a{number}', 'b', 'c'}}\ndef f(x):\n    return x in {{1, 2, 'name'}}\n".encode()
        )
        for number in range(20)
    }
    one = compile_modules(interpreter | sources, FOLDERS, work=tmp_path / "a")
    other = compile_modules(dict(reversed((interpreter | sources).items())), FOLDERS, work=tmp_path / "a much longer folder, with spaces")
    assert one == other
    assert "usr/lib/python3.11/m7.pyc" in one
    assert "usr/lib/python3.11/m7.py" not in one
    assert not list((tmp_path / "a").glob("*/")), "temporary folders are gone"


def test_a_module_does_not_depend_on_what_was_compiled_before_it(interpreter, tmp_path):
    source = cpio.file(b"import os\nNAMES = ('alpha', 'beta', os.sep)\ndef alpha(beta):\n    return {'alpha': beta}\n")
    alone = compile_modules(interpreter | {"usr/lib/python3.11/z.py": source}, FOLDERS, work=tmp_path)
    many = compile_modules(interpreter | {f"usr/lib/python3.11/{name}.py": source for name in "abcz"}, FOLDERS, work=tmp_path)
    assert alone["usr/lib/python3.11/z.pyc"] == many["usr/lib/python3.11/z.pyc"]


def test_what_is_no_python_stays_as_it_is(interpreter, tmp_path):
    bad = {
        f"usr/lib/python3.11/{name}.py": cpio.file(data)
        for name, data in {"two": b"print 'x'\n", "null": b"\0", "latin": b"\xff\n"}.items()
    }
    tree = compile_modules(interpreter | bad, FOLDERS, work=tmp_path)
    assert bad.items() <= tree.items()


def test_an_image_without_python_is_our_error(tmp_path):
    with pytest.raises(ImageError) as caught:
        compile_modules({"usr/lib/python3.11/a.py": cpio.file(b"")}, FOLDERS, work=tmp_path)
    assert caught.value.code == "image/no-python"


def test_a_python_of_another_architecture_says_so(interpreter, tmp_path):
    tree = {**interpreter, bytecode._LOADER: cpio.file(b"\x7fELF of another machine")}
    with pytest.raises(ImageError) as caught:
        compile_modules(tree, FOLDERS, work=tmp_path)
    assert caught.value.code == "image/python"
    assert "bookworm" in str(caught.value)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here")
def test_both_roots_import_all_that_they_need(built, tmp_path):
    eif = read_eif(built.eif.read_bytes())
    for ramdisk in eif.ramdisks:
        extract(eif.read(ramdisk), tmp_path)
    init = (
        "import sys; sys.path[:0] = ['/usr/lib/nitrokit', '/usr/lib/nitrokit-site']; import botocore.session, ssl, http.server, nitrokit.runtime.init, nitrokit.runtime.kms;"
        "from cryptography.hazmat.primitives.asymmetric import rsa; rsa.generate_private_key(65537, 2048);"
        "botocore.session.Session().create_client('kms', region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b');"
        "print(sys.version_info[:2], botocore.__file__)"
    )
    app = "from nitrokit.runtime import Kms, attest, frames, vsock; import hashlib, hmac; print(Kms.__module__, hmac.digest(b'a', b'b', hashlib.sha256).hex()[:8])"
    assert _python(tmp_path, "-ISB", "-c", init) == "(3, 11) /usr/lib/nitrokit-site/botocore/__init__.pyc\n"
    path = ("--setenv", "PYTHONPATH", "/usr/lib/nitrokit:/usr/lib/nitrokit-site")
    assert _python(tmp_path / "rootfs", "-B", "-c", app, options=path) == "nitrokit.runtime.client 08de3299\n"


def _python(root, *arguments, options=()):
    command = [
        "bwrap", "--unshare-all", "--clearenv", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *options, "/usr/bin/python3", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
