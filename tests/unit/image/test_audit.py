"""`nitrokit build --audit`: the real pip-audit, asking a local server that answers as OSV does (google.github.io/osv.dev/post-v1-query)."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nitrokit.image.audit import AuditProblem, audit
from nitrokit.image.contents import Installed

pytest.importorskip("pip_audit", reason="pip-audit (the extra nitrokit[audit]) is not installed")
HELLO = Path(__file__).parents[3] / "enclave_images" / "hello"
RECORD = {
    "schema_version": "1.7.0", "id": "PYSEC-2099-1", "aliases": ["CVE-2099-1"], "summary": "a test's own finding", "modified": "2099-01-01T00:00:00Z",
    "affected": [{"package": {"name": "cbor2", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]}],
}  # fmt: skip


@pytest.fixture
def osv(monkeypatch, tmp_path):
    """``asked``: what was; ``bad``: names with a finding."""
    asked: list[tuple[str, str]] = []
    bad: set[str] = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((query["package"]["name"], query["version"]))
            body = json.dumps({"vulns": [RECORD]} if query["package"]["name"] in bad else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_port}/v1/query")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield asked, bad
    server.shutdown()
    server.server_close()


def test_every_wheel_is_asked_for_in_each_of_its_versions(osv):
    asked, bad = osv
    bad.add("cbor2")
    packages = [
        Installed("pypi", "cbor2", "6.3.0"),
        Installed("pypi", "cbor2", "5.0.0"),
        Installed("pypi", "typing_extensions", "4.0"),
        Installed("deb", "zlib1g", "1"),
    ]
    found = audit(packages)
    assert sorted(asked) == [("cbor2", "5.0.0"), ("cbor2", "6.3.0"), ("typing-extensions", "4.0")]
    assert (found.checked, found.skipped) == (3, ())
    assert sorted(map(str, found.vulnerabilities)) == [
        f"cbor2 {version}: PYSEC-2099-1, CVE-2099-1; fixed in 99.0" for version in ("5.0.0", "6.3.0")
    ]


def test_nothing_is_asked_for_an_image_without_wheels(osv):
    assert audit([Installed("deb", "zlib1g", "1")]).checked == 0
    assert osv[0] == []


def test_a_service_that_cannot_be_reached_leaves_nothing_known(osv, monkeypatch):
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", "http://127.0.0.1:9/v1/query")
    with pytest.raises(AuditProblem) as caught:
        audit([Installed("pypi", "cbor2", "6.3.0")])
    assert (caught.value.code, caught.value.exit_code) == ("audit/failed", 3)
    assert "nothing is known" in caught.value.what


def _build(kernel, tmp_path, *options):
    environment = {**os.environ, "NITROKIT_BLOBS": str(kernel.bzimage.parent)}
    command = [sys.executable, "-m", "nitrokit.cli", "build", str(HELLO), "-o", str(tmp_path / "x.eif"), "--audit", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "x.eif").is_file(), done.stderr
    return done


def test_the_command_prints_findings_and_exits_by_them(osv, kernel, tmp_path, monkeypatch):
    good = _build(kernel, tmp_path)
    assert good.returncode == 0
    assert "0 known vulnerabilities" in good.stdout
    assert ("botocore", "1.44.5") in osv[0], "init's wheels are in the image too"
    osv[1].add("cbor2")
    bad = _build(kernel, tmp_path, "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["audit"]["vulnerabilities"][0]["fixed_in"] == ["99.0"]
    assert json.loads(bad.stderr[bad.stderr.index("{") :])["error"]["code"] == "audit/vulnerable"
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", "http://127.0.0.1:9/v1/query")
    offline = _build(kernel, tmp_path)
    assert offline.returncode == 3
    assert "nothing is known" in offline.stderr
