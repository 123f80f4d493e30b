"""Building: the same bytes whatever the machine's mood, the lock that holds, and drift that is explained."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nitrokit.image.architecture import ARCHITECTURES
from nitrokit.image.base import CLOSURE, bootstrap_tree, requirements_path
from nitrokit.image.build import build_image
from nitrokit.image.errors import KernelError, LockError
from nitrokit.image.explain import explain
from nitrokit.image.fetch import cache_dir
from nitrokit.image.kernel import CMDLINE, find_kernel
from nitrokit.image.lock import read_lock, read_package_lock
from nitrokit.image.sources.packages import APP_CLOSURE

ROOT = Path(__file__).parents[3]
HELLO = ROOT / "enclave_images" / "hello"


def test_umask_time_zone_locale_and_path_do_not_matter(built, kernel, tmp_path):
    copy = tmp_path / "another place" / "hello"
    shutil.copytree(HELLO, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    code = (
        "import os, sys; from pathlib import Path; os.umask(0o077); from nitrokit.image.build import build_image; from nitrokit.image.kernel import find_kernel;"
        "build_image(Path(sys.argv[1]), kernel=find_kernel({'NITROKIT_BLOBS': sys.argv[2]}, Path('.'), print), output=Path(sys.argv[3]), cache=Path(sys.argv[4]), progress=print)"
    )
    command = [sys.executable, "-c", code, str(copy), str(kernel.bzimage.parent), str(tmp_path / "x.eif"), str(cache_dir(os.environ))]
    environment = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "5"}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert (tmp_path / "x.eif").read_bytes() == built.eif.read_bytes()


def test_the_committed_lock_holds_but_for_the_kernel(built):
    lock = read_lock(HELLO)
    assert {name for name in built.sections if built.sections[name] != lock.sections[name]} == {"kernel"}, (
        "run `nitrokit lock enclave_images/hello --measurements-only`"
    )
    assert explain(lock, built)[0].startswith("the kernel differs")
    assert built.measurements.pcr2 == lock.measurements.pcr2


def test_one_byte_of_the_app_moves_pcr0_and_pcr2_and_is_explained(built, kernel, tmp_path):
    copy = tmp_path / "hello"
    shutil.copytree(HELLO, copy)
    (copy / "app/main.py").write_text((copy / "app/main.py").read_text()[:-1] + " ")
    other = build_image(copy, kernel=kernel, output=tmp_path / "x.eif", cache=cache_dir(os.environ), progress=lambda _: None)
    assert [one.index for one in built.measurements.differences(other.measurements)] == [0, 2]
    assert any("ramdisk 1" in sentence and "PCR2" in sentence for sentence in explain(read_lock(HELLO), other))


def test_ramdisk_0_holds_of_nitrokit_the_measured_closure_and_nothing_else(trees):
    found = {path for path, node in trees[0].items() if path.startswith("usr/lib/nitrokit/") and stat.S_ISREG(node.mode)}
    assert found == {f"usr/lib/nitrokit/nitrokit/{name}c" for name in CLOSURE}


def test_ramdisk_1_replaces_nothing_that_pcr1_vouches_for(trees):
    assert {path.split("/")[0] for path in trees[1]} == {"enclave.json", "rootfs"}
    assert not set(trees[0]) & set(trees[1])


@pytest.mark.parametrize(
    ("closure", "modules", "extra"),
    [
        (CLOSURE, "nitrokit.runtime.init, nitrokit.runtime.operations, nitrokit.runtime.kms", {"_version.py", "runtime/client.py"}),
        (APP_CLOSURE, "nitrokit.runtime.client, nitrokit.runtime.vsock, nitrokit.runtime.frames", {"_version.py"}),
    ],
)
def test_a_closure_is_what_is_imported(closure, modules, extra):
    code = f"import sys, {modules}; print(*sorted(name for name in sys.modules if name.split('.')[0] == 'nitrokit'))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    package = ROOT / "constructs" / "nitrokit"
    wanted = set()
    for name in loaded:
        base = ROOT / "constructs" / name.replace(".", "/")
        wanted.add(base / "__init__.py" if base.is_dir() else base.with_suffix(".py"))
    assert {package / name for name in closure} - wanted == {package / name for name in extra} - wanted
    assert wanted <= {package / name for name in closure}


def test_no_secret_and_no_shell_in_the_image(built, trees):
    paths = {path for tree in trees for path in tree}
    assert not {path for path in paths if path.endswith(("/sh", "/bash", "/dash", "/dpkg", "/apt", "/pip"))}
    assert not {path for path in paths if "credentials" in path.rsplit("/", 1)[-1] and not path.endswith(".pyc")}
    assert {"usr/lib/nitrokit-site/botocore/data/kms/2014-11-01/service-2.json.gz"} <= paths
    assert not {path for path in paths if "/botocore/data/ec2" in path}
    assert built.findings == ()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"packages": [{}]}', "\x00"])
def test_a_torn_package_lock_is_our_error(tmp_path, content):
    (tmp_path / "packages.lock.json").write_text(content)
    with pytest.raises(LockError) as caught:
        read_package_lock(tmp_path / "packages.lock.json")
    assert caught.value.code == "lock/torn"


def test_a_missing_lock_says_what_to_run(tmp_path):
    with pytest.raises(LockError) as caught:
        read_lock(tmp_path)
    assert "nitrokit lock" in str(caught.value)


def test_a_failed_build_leaves_nothing_behind(kernel, tmp_path):
    copy = tmp_path / "hello"
    shutil.copytree(HELLO, copy)
    shutil.rmtree(copy / "app")
    with pytest.raises(Exception, match="folder is missing"):
        build_image(copy, kernel=kernel, output=tmp_path / "out" / "x.eif", cache=cache_dir(os.environ), progress=lambda _: None)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_kernel_folder_without_a_kernel_is_refused_and_a_cmdline_is_honoured(tmp_path):
    with pytest.raises(KernelError):
        find_kernel({"NITROKIT_BLOBS": str(tmp_path)}, tmp_path, print)
    (tmp_path / "bzImage").write_bytes(b"k")
    assert find_kernel({"NITROKIT_BLOBS": str(tmp_path)}, tmp_path, print).cmdline == CMDLINE
    (tmp_path / "cmdline").write_text("reboot=k panic=30\n")
    (tmp_path / "nsm.ko").write_bytes(b"m")
    kernel = find_kernel({"NITRO_CLI_BLOBS": str(tmp_path)}, tmp_path, print)
    assert (kernel.cmdline, kernel.nsm_module) == ("reboot=k panic=30", tmp_path / "nsm.ko")
    assert "nsm.ko" in bootstrap_tree(kernel, "x86_64", cache=cache_dir(os.environ), progress=lambda _: None)


def test_the_locks_name_hashes_for_everything():
    packages = json.loads((HELLO / "packages.lock.json").read_text())["packages"]
    assert packages
    assert all(len(one["sha256"]) == 64 for one in packages)
    lines = [line for arch in ARCHITECTURES for line in requirements_path(arch).read_text().splitlines() if not line.startswith("#")]
    assert all(" --hash=sha256:" in line for line in lines)


def test_a_damaged_wheel_in_the_cache_is_fetched_again(tmp_path, monkeypatch):
    from nitrokit.image import fetch

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("a==1 --hash=sha256:" + hashlib.sha256(b"wheel").hexdigest() + "\n")
    calls = []

    def download(_requirements, folder, *_):
        calls.append(folder)
        folder.mkdir()
        (folder / "a-1-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setattr(fetch, "_pip_download", download)
    for _ in range(2):
        (wheel,) = fetch.fetch_wheels(requirements, python="3.11", arch="x86_64", cache=tmp_path / "cache")
    assert len(calls) == 1
    wheel.write_bytes(b"damaged")
    (wheel,) = fetch.fetch_wheels(requirements, python="3.11", arch="x86_64", cache=tmp_path / "cache")
    assert wheel.read_bytes() == b"wheel"
    assert len(calls) == 2
