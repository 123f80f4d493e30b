"""The wheel in an empty virtual environment, outside the repository: a stranger's app synthesises there what it synthesises here."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
APP = Path(__file__).with_name("foreign_app.py")


def _needed(extra):
    """Names of the distributions behind nitrokit[extra], as pip would find them."""
    found, open_ends = set(), [("nitrokit", extra)]
    while open_ends:
        name, wanted = open_ends.pop()
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                one = canonicalize_name(requirement.name)
                if one not in found and one != "nitrokit":
                    found.add(one)
                    open_ends.append((one, next(iter(requirement.extras), "")))
    return found


def _locked(names):
    """The lock's entries for these, with their hashes."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.txt").read_text())
    return "\n".join(one for one in entries if canonicalize_name(re.split(r"[=\[ ;]", one)[0]) in names)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Of the virtual environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    lock = folder / "lock.txt"
    lock.write_text(_locked(_needed("cdk")))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    interpreter = folder / "venv/bin/python"
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    for words in (["--require-hashes", "--requirement", str(lock)], [str(wheel)]):
        done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode and "Could not find a version" in done.stderr:
            pytest.skip("the package index is not reachable")
        assert done.returncode == 0, done.stderr
    return interpreter


def _synthesise(python, folder):
    """The templates, by stack, and where nitrokit was imported from."""
    node = os.path.dirname(shutil.which("node") or "")
    environment = {"PATH": f"{node}:/usr/bin:/bin", "HOME": os.environ["HOME"], "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1"}
    command = [str(python), str(shutil.copy(APP, folder)), str(folder / "output")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    templates = {path.name: json.loads(path.read_text()) for path in (folder / "output/cdk.out").glob("*.template.json")}
    return templates, done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def from_wheel(python, tmp_path_factory):
    return _synthesise(python, tmp_path_factory.mktemp("theirs"))


@pytest.mark.network
def test_a_strangers_app_synthesises_the_same_from_the_wheel(python, from_wheel, tmp_path_factory):
    theirs, where = from_wheel
    ours, _ = _synthesise(sys.executable, tmp_path_factory.mktemp("ours"))
    assert Path(where).is_relative_to(python.parents[1])
    assert sorted(theirs) == [f"{name}.template.json" for name in ("Fleet", "Gate", "Hosts", "Keys", "PartnersKeys", "Shared")]
    assert theirs == ours


def test_the_stranger_uses_every_construct(published):
    called = re.findall(r"\b(\w+)(?:\.from_\w+)?\(", APP.read_text())
    assert sorted(set(published) - set(called)) == []


@pytest.mark.network
def test_references_cross_stacks_and_accounts(from_wheel):
    templates, _ = from_wheel
    text = {name.partition(".")[0]: json.dumps(one) for name, one in templates.items()}
    assert '"Fn::ImportValue": "Fleet:' in text["Keys"]
    assert "Fn::ImportValue" not in text["PartnersKeys"]
    assert ":iam::111111111111:role/wallet-parents" in text["PartnersKeys"]
    key = next(one for one in templates["Keys.template.json"]["Resources"].values() if one["Type"] == "AWS::KMS::Key")
    attested = [one for one in key["Properties"]["KeyPolicy"]["Statement"] if one["Effect"] == "Allow" and "Condition" in one]
    assert len([one for one in attested if "kms:RecipientAttestation" in json.dumps(one)]) == 2
