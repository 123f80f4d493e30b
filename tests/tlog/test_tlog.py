"""Go's tlog and transparency-dev's note verify our exports: tree, tiles, bundles, checkpoints, signatures and key ids are theirs too."""

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from nitrokit.core.ledger import PASS, LedgerEntry, local_signer
from nitrokit.handlers.ledger_export import export_ledger
from nitrokit.handlers.ledger_folder import FolderStore
from nitrokit.handlers.ledger_signing import sign_ledger
from nitrokit.handlers.ledger_store import Ledger

TIME = datetime(2026, 6, 7, tzinfo=UTC)
SIGNER = local_signer("example.com/ledger", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def tlog(tmp_path_factory):
    """The Go program."""
    folder = Path(__file__).parent
    if shutil.which("go") is None:
        pytest.skip("there is no Go here for a second opinion on the ledger")
    if subprocess.run(["go", "mod", "download"], cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("Go's modules cannot be had: no network, or a Go older than they need")
    program = tmp_path_factory.mktemp("tlog") / "tlog"
    subprocess.run(["go", "build", "-o", program, "."], cwd=folder, check=True)
    return program


@pytest.fixture
def export(dynamodb, tmp_path):
    """Two full tiles and a partial one, signed on the way."""
    ledger, store = Ledger("ledger", dynamodb), FolderStore(tmp_path / "export")
    for size in (1, 256, 300):
        ledger.append_all([LedgerEntry(f"id{number}", TIME, "hello", "i-1", "test", PASS) for number in range(size)])
        sign_ledger(ledger, SIGNER, TIME)
        export_ledger(ledger, store, SIGNER.key.public_key)
    return tmp_path / "export"


def test_go_proves_every_entry_and_every_checkpoint(tlog, export):
    command = [tlog, export, SIGNER.key.verifier_key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout or "{}")
    assert (told.get("entries"), told.get("checkpoints"), told.get("origin")) == (300, 3, "example.com/ledger"), done.stderr
    bundle = export / "tile" / "entries" / "000"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole.replace(b"hello", b"other", 1))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    bundle.write_bytes(whole)
    checkpoint = export / "checkpoint"
    checkpoint.write_text(checkpoint.read_text().replace("06-07", "06-08"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1, "the time is signed"
