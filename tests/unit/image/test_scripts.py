"""Wheels' console scripts: the same that installers write, by the standard library's own reading of all that is installed here."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from nitrokit.image.cpio import file
from nitrokit.image.errors import ImageError
from nitrokit.image.scripts import add_scripts
from nitrokit.image.unpack import Tree

INFO = "site/x-1.dist-info/entry_points.txt"


def _added(text, tree=None, excluded=lambda path: False):
    tree = {INFO: file(text.encode()), **(tree or {})}
    add_scripts(tree, "site", excluded)
    return {path.removeprefix("usr/bin/"): node for path, node in tree.items() if path.startswith("usr/bin/")}


def test_every_script_of_what_is_installed_here_is_written():
    tree: Tree = {}
    expected: dict[str, importlib.metadata.EntryPoint] = {}
    for one in importlib.metadata.distributions():
        if text := one.read_text("entry_points.txt"):
            tree[f"site/{one.metadata['Name']}-1.dist-info/entry_points.txt"] = file(text.encode())
            expected |= {point.name: point for point in one.entry_points if point.group == "console_scripts"}
    add_scripts(tree, "site", lambda path: False)
    written = {path.removeprefix("usr/bin/"): node for path, node in tree.items() if path.startswith("usr/bin/")}
    assert written.keys() == expected.keys() and "pytest" in written
    for name, node in written.items():
        assert node.mode & 0o777 == 0o755
        lines = node.data.decode().splitlines()
        assert lines[2].split()[1] == expected[name].module
        assert lines[3] == f"sys.exit({expected[name].attr}())"


def test_a_script_runs_and_its_exit_code_is_the_objects(tmp_path):
    (tmp_path / "tool.py").write_text("class Main:\n    @staticmethod\n    def run():\n        print('ran')\n        return 3\n")
    script = tmp_path / "tool"
    script.write_bytes(_added("[console_scripts]\ntool = tool:Main.run [extra]\n")["tool"].data)
    done = subprocess.run([sys.executable, script], capture_output=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False)
    assert (done.returncode, done.stdout) == (3, b"ran\n")


def test_a_file_of_a_package_stays_and_what_is_excluded_is_not_there():
    text = "[console_scripts]\nkept = a:b\nout = a:b\nnew = a:b\n[gui_scripts]\nwindow = a:b\n"
    found = _added(text, {"usr/bin/kept": file(b"Debian's")}, lambda path: path == "usr/bin/out")
    assert found.keys() == {"kept", "new"}
    assert found["kept"].data == b"Debian's"


@pytest.mark.parametrize("line", ["../x = a:b", "a/b = a:b", ".x = a:b", "x = a", "x = a:b;import os", "x", "x = é:b", "[[", "\udcff"])
def test_what_no_installer_would_write_is_our_error(line):
    tree = {INFO: file(f"[console_scripts]\n{line}\n".encode(errors="surrogateescape"))}
    with pytest.raises(ImageError) as caught:
        add_scripts(tree, "site", lambda path: False)
    assert caught.value.code == "image/wheel"
