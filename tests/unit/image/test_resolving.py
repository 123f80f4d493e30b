"""What a wheel needs depends on the image's Python and architecture, by the real pip, offline."""

import zipfile

import pytest

from nitrokit.image.errors import FetchError
from nitrokit.image.resolve import lock_image, resolve_wheels

NEEDS = (
    'old; python_version < "3.12"', 'new; python_version >= "3.12"', 'arm; platform_machine == "aarch64"', 'intel; platform_machine == "x86_64"',
    'patched; python_full_version < "3.11.3"', 'windows; sys_platform == "win32"', 'other; implementation_name == "pypy"',
)  # fmt: skip


def test_names_of_wheels_that_are_missing_are_told_before_anything_is_asked_or_written(tmp_path):
    (tmp_path / "enclave.toml").write_text(
        '[enclave]\nname = "x"\n[packages]\nsuite = "bookworm"\ninclude = ["python3"]\nrequirements = "requirements.txt"\n'
        '[app]\nsource = "app"\ncommand = ["/x"]\n'
    )
    for folder in (False, True):
        if folder:
            (tmp_path / "requirements.in").mkdir()
        said: list[str] = []
        with pytest.raises(FetchError) as caught:
            lock_image(tmp_path, progress=said.append)
        assert (caught.value.code, "no requirements.in" in caught.value.what, said) == ("fetch/no-requirements", True, [])
        assert not (tmp_path / "packages.lock.json").exists()


def _wheel(folder, name, needs=()):
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n" + "".join(f"Requires-Dist: {need}\n" for need in needs)
        archive.writestr(f"{name}-1.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.dist-info/RECORD", "")


@pytest.mark.parametrize(
    ("python", "arch", "expected"),
    [
        ("3.11.2", "x86_64", {"intel", "old", "patched"}),
        ("3.11.2", "aarch64", {"arm", "old", "patched"}),
        ("3.13.5", "x86_64", {"intel", "new"}),
        ("3.13.5", "aarch64", {"arm", "new"}),
    ],
)
def test_wheels_are_resolved_for_the_image_whatever_python_runs_pip(tmp_path, monkeypatch, python, arch, expected):
    _wheel(tmp_path, "app", NEEDS)
    for need in NEEDS:
        _wheel(tmp_path, need.split(";")[0])
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    source = tmp_path / "requirements.in"
    source.write_text("app\n")
    lines = resolve_wheels(source, python, arch).splitlines()
    assert {line.split("==")[0] for line in lines[1:]} == {"app", *expected}
