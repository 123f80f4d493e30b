"""enclave.toml: what is refused, and where the message points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.manifest import (
    App,
    Dockerfile,
    Egress,
    EifFile,
    Ingress,
    ManifestError,
    Oci,
    Packages,
    Rootfs,
    Signing,
    parse_manifest,
    parse_packages,
)

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
        ('"requirements.txt"', '"requirements.in"', "value", 6),
        ('suite = "bookworm"\n', "", "missing", 3), ("[[egress]]", "[egress]", "type", 10), ("[enclave]", "[[enclave]]", "type", 1), ('name = "hello"', 'name = "hello"\narch = "riscv"', "value", 3),
        ('"python3.11-minimal"', "5", "type", 5), ('source = "app"', 'source = "app"\nworking_directory = "app"', "path", 9),
        ('source = "app"', 'source = "app"\nworking_directory = "/a/../b"', "path", 9),
        ('source = "app"', 'source = "app"\nenvironment = {A = 5}', "type", 9), ("port = 443\n", "", "missing", 10),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_refused_with_file_and_line(old, new, slug, line):
    assert old in GOOD
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD.replace(old, new), path="images/x/enclave.toml")
    assert caught.value.slug == slug
    assert f"images/x/enclave.toml:{line}" in caught.value.what


@pytest.mark.parametrize(
    "number",
    ["1" * 5000, "0x" + "f" * 5000, str(1 << 63), f"-{1 << 63}", "[[{a = 0x" + "f" * 16 + "}]]", "[" * 100_000, "443 443", "2026-13-01"],
)
def test_what_is_not_toml_is_told_with_the_files_name(number):
    """An integer of more than 64 bits is none (TOML 1.0.0, "Integer"); Python would fail at it later, in a message."""
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD.replace("443", number), path="images/x/enclave.toml")
    assert (caught.value.code, "images/x/enclave.toml is not TOML" in str(caught.value)) == ("manifest/not-toml", True)
    assert len(str(caught.value)) < 400


def test_the_largest_integer_of_toml_is_only_out_of_range():
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD.replace("443", str((1 << 63) - 1)), path="x")
    assert caught.value.code == "manifest/range"


@pytest.mark.parametrize(
    "host", ["*.amazonaws.com", "192.0.2.1", "[2001:db8::1]", "2001:db8::1", "KMS.example.com", "localhost", "a..b", "a.b.7"]
)
def test_a_host_of_egress_is_a_whole_name(host):
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD.replace("kms.us-east-1.amazonaws.com", host), path="x")
    assert (caught.value.slug, caught.value.got) == ("value", host)
    assert "no wildcard, no address" in str(caught.value)


@pytest.mark.parametrize(
    ("destination", "slug"),
    [
        (("192.0.2.1", 443, 8001), "value"),
        ((7, 443, 8001), "value"),
        (("a.b", 0, 8001), "range"),
        (("a.b", True, 8001), "range"),
        (("a.b", 443, 1023), "range"),
    ],
)
def test_a_destination_made_in_python_is_checked_too(destination, slug):
    with pytest.raises(ManifestError) as caught:
        Egress(*destination)
    assert caught.value.slug == slug


def test_a_destination_is_named_once():
    again = GOOD + '\n[[egress]]\nhost = "kms.us-east-1.amazonaws.com"\nport = {}\nvsock_port = 8002\n'
    assert len(parse_manifest(again.format(444), path="x").egress) == 2
    with pytest.raises(ManifestError) as caught:
        parse_manifest(again.format(443), path="x")
    assert "twice" in caught.value.what


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


def _with_source(text, app=True):
    start, end = GOOD.index("[packages]"), GOOD.index("[app]" if app else "[[egress]]")
    return GOOD[:start] + text + GOOD[end:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[dockerfile]\n", Dockerfile()),
        ('[dockerfile]\npath = "a/D"\ncontext = "a"\ntarget = "run"\narguments = {X = "1"}\n', Dockerfile("a/D", "a", "run", {"X": "1"})),
        ('[oci]\npath = "x.tar"\nreference = "app:1"\ndigest = "sha256:' + "a" * 64 + '"\n', Oci("x.tar", "app:1", "sha256:" + "a" * 64)),
        ('[rootfs]\npath = "root"\nexclude = ["var"]\n', Rootfs("root", exclude=("var",))),
        ('[eif]\npath = "x.eif"\n', EifFile("x.eif")),
    ],
)
def test_each_source_is_read_and_needs_no_app(text, expected):
    manifest = parse_manifest(_with_source(text, app=False), path="x")
    assert (manifest.source, manifest.app) == (expected, App())
    given = parse_manifest(_with_source(text), path="x").app
    assert (given.command, given.user, given.working_directory) == (("/usr/bin/python3", "main.py"), None, None)


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("", "source"), ('[rootfs]\npath = "r"\n[eif]\npath = "e"\n', "source"), ('[rootfs]\npath = "/etc"\n', "path"), ('[oci]\npath = "x"\ndigest = "latest"\n', "value"),
        ('[rootfs]\npath = "x"\nsha256 = "12"\n', "value"), ('[dockerfile]\narguments = {"" = "1"}\n', "type"), ('[rootfs]\npath = "a\\u0000b"\n', "value"),
        ('[packages]\nsuite = "bookworm"\n', "missing"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_is_refused(text, slug):
    with pytest.raises(ManifestError) as caught:
        parse_manifest(_with_source(text), path="x")
    assert caught.value.slug == slug


def test_packages_need_no_wheels_but_an_app():
    source = parse_manifest(GOOD.replace('requirements = "requirements.txt"\n', ""), path="x").source
    assert isinstance(source, Packages)
    assert source.requirements is None
    for text in (GOOD.replace('source = "app"\n', ""), GOOD.replace('command = ["/usr/bin/python3", "main.py"]\n', "")):
        with pytest.raises(ManifestError) as caught:
            parse_manifest(text, path="x")
        assert caught.value.slug == "missing"
    with pytest.raises(ManifestError):
        parse_packages("[packages]\n", path="x")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("[[ingress]]\nport = 8080\nvsock_port = 5001\n", "value"), ("[[ingress]]\nport = 80\nvsock_port = 8080\n[[ingress]]\nport = 81\nvsock_port = 8080\n", "value"),
        ("[[ingress]]\nvsock_port = 8080\n", "missing"), ('[signing]\ncertificate = "c.pem"\n', "signing"), ('[signing]\ncertificate = "c.pem"\nkey = "k"\nkms_key = "a"\n', "signing"),
        ('[signing]\nkey = "k"\n', "missing"),
    ],
)  # fmt: skip
def test_ways_in_and_signing_that_cannot_be_are_refused(text, slug):
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD + text, path="x")
    assert caught.value.slug == slug


def test_ways_in_signing_compression_and_readiness():
    extra = '[[ingress]]\nport = 8080\nvsock_port = 8443\n[signing]\ncertificate = "c.pem"\nkms_key = "arn"\n'
    text = GOOD.replace('name = "hello"', 'name = "hello"\ncompression = "zstd"\nmemory_mib = 512').replace(
        'source = "app"', 'source = "app"\nready_port = 8080'
    )
    manifest = parse_manifest(text + extra, path="x")
    assert manifest.ingress == (Ingress(8080, 8443),)
    assert manifest.signing == Signing("c.pem", None, "arn")
    assert (manifest.compression, manifest.memory_mib, manifest.app.ready_port) == ("zstd", 512, 8080)
    assert parse_manifest(GOOD + '[signing]\ncertificate = "c.pem"\nkey = "k.pem"\n', path="x").signing == Signing("c.pem", "k.pem")


ROOTFS = '[enclave]\nname = "x"\ninit = "aws"\n[rootfs]\npath = "r.tar"\n'


def test_awss_init_takes_a_command_and_refuses_what_it_could_not_heed():
    manifest = parse_manifest(ROOTFS + '[app]\ncommand = ["/x"]\nenvironment = {A = "b"}\n', path="x")
    assert (manifest.init, manifest.app.command, parse_manifest(GOOD, path="x").init) == ("aws", ("/x",), "nitrokit")
    assert parse_manifest(ROOTFS, path="x").init == "aws"
    for extra, got in (
        ('[app]\nuser = "a"\n', "user in [app]"),
        ("[app]\nlogs = true\n", "logs in [app]"),
        ("[[ingress]]\nport = 1\nvsock_port = 2000\n", "[[ingress]]"),
        ('[[egress]]\nhost = "a.b"\nport = 1\nvsock_port = 2000\n', "[[egress]]"),
    ):
        with pytest.raises(ManifestError) as caught:
            parse_manifest(ROOTFS + extra, path="x")
        assert (caught.value.slug, caught.value.got) == ("init", got)
    with pytest.raises(ManifestError) as caught:
        parse_manifest(GOOD.replace('name = "hello"', 'name = "hello"\ninit = "aws"'), path="x")
    assert caught.value.got == "[[egress]], [packages]"
