"""The wheel: what a stranger's stack needs is in it, and nothing else lies beside the package."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_brings_templates_lambdas_and_types(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {
        "nitrokit/py.typed",
        "nitrokit/host/templates/bootstrap.json.j2",
        "nitrokit/host/templates/attest.json.j2",
        "nitrokit/_lambda/check_enclaves/index.py",
        "nitrokit/_lambda/requirements.txt",
        "nitrokit/handlers/schemas/verify_attestation.json",
        "nitrokit/emulation/nitro/shims/sitecustomize.py",
    } <= names
    assert {name.split("/")[0] for name in names} == {"nitrokit", next(name for name in names if "dist-info" in name).split("/")[0]}
    code = "import nitrokit, sys; from nitrokit.cdk.bundling import lambda_folder; print(lambda_folder('check_enclaves'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
    )
    assert done.stdout.strip() == str(tmp_path / "site/nitrokit/_lambda/check_enclaves")
