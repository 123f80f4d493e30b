"""constructs/ is a source root, never a package: otherwise PyPI's `constructs` is shadowed and aws_cdk cannot be imported."""

import subprocess
import sys
from pathlib import Path

import constructs

ROOT = Path(__file__).parents[2]


def test_the_source_root_holds_the_one_package_and_nothing_else():
    python = [path.name for path in (ROOT / "constructs").iterdir() if path.suffix == ".py"]
    assert python == []
    packages = [path.name for path in (ROOT / "constructs").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert packages == ["nitrokit"]


def test_pypi_constructs_is_the_one_imported():
    assert "site-packages" in Path(constructs.__file__).parts


def test_importing_nitrokit_is_cheap():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys; before = set(sys.modules); import nitrokit; print(*sorted(set(sys.modules) - before))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert loaded == ["nitrokit"]


def test_the_cli_imports_neither_aws_cdk_nor_moto_nor_boto3():
    code = "import sys, nitrokit.cli.commands; print(*[name for name in ('aws_cdk', 'jsii', 'moto', 'boto3', 'cryptography') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_emulated_nitro_cli_starts_without_the_hypervisor():
    """A parent starts it again and again, and there may be a hundred parents."""
    code = "import sys, nitrokit.emulation.nitro.shim; print(*[name for name in ('cryptography', 'cbor2', 'dataclasses') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
