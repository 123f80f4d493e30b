"""enclave.toml: what is refused, and where the message points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.manifest import ManifestError, parse_manifest

GOOD = """[enclave]
name = "hello"
[packages]
suite = "bookworm"
include = ["python3.11-minimal"]
requirements = "requirements.txt"
[app]
source = "app"
command = ["/usr/bin/python3", "main.py"]
[[egress]]
host = "kms.us-east-1.amazonaws.com"
port = 443
vsock_port = 8001
"""


def test_defaults():
    manifest = parse_manifest(GOOD, path="enclave.toml")
    assert (manifest.arch, manifest.cpu_count, manifest.memory_mib, manifest.app.user, manifest.app.working_directory) == (
        "x86_64",
        2,
        None,
        "nobody",
        "/app",
    )
    assert manifest.egress[0].vsock_port == 8001


@pytest.mark.parametrize(
    ("old", "new", "slug", "line"),
    [
        ('name = "hello"', 'nane = "hello"', "unknown-key", 2), ("[packages]", "[pakages]", "unknown-key", 3), ('name = "hello"', 'name = "Hello World"', "value", 2),
        ('name = "hello"', "name = 5", "type", 2), ('"/usr/bin/python3"', '"python3"', "command", 9), ('source = "app"', 'source = "../app"', "path", 8),
        ("port = 443", "port = 0", "range", 12), ("vsock_port = 8001", "vsock_port = 80", "range", 13), ('host = "kms', 'host = "kms_', "value", 11),
        ('suite = "bookworm"\n', "", "missing", 3), ("[[egress]]", "[egress]", "type", 10), ("[enclave]", "[[enclave]]", "type", 1), ('name = "hello"', 'name = "hello"\narch = "riscv"', "value", 3),
        ('"python3.11-minimal"', "5", "type", 5), ('source = "app"', 'source = "app"\nworking_directory = "app"', "path", 9),
        ('source = "app"', 'source = "app"\nenvironment = {A = 5}', "type", 9), ("port = 443\n", "", "missing", 10),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_refused_with_file_and_line(old, new, slug, line):
    assert old in GOOD
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD.replace(old, new), path="images/x/enclave.toml")
    assert caught.value.slug == slug
    assert f"images/x/enclave.toml:{line}" in caught.value.what


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_our_error(text):
    try:
        parse_manifest(text, path="x")
    except ManifestError:
        pass


def test_logs_and_restart_are_said_in_the_measured_manifest():
    app = parse_manifest(GOOD.replace('source = "app"', 'source = "app"\nlogs = true\nrestart = "on-failure"'), path="x").app
    assert (app.logs, app.restart) == (True, "on-failure")
    assert (parse_manifest(GOOD, path="x").app.logs, parse_manifest(GOOD, path="x").app.restart) == (False, "never")
    for wrong, slug in (("logs = 1", "type"), ('logs = "yes"', "type"), ('restart = "maybe"', "value"), ("restart = true", "type")):
        with pytest.raises(ManifestError) as caught:
            parse_manifest(GOOD.replace('source = "app"', f'source = "app"\n{wrong}'), path="x")
        assert caught.value.slug == slug
