"""Pinned files over a real HTTP server that misbehaves, and mirrors from real apt configurations."""

import hashlib
import http.server
import threading
from typing import Any, ClassVar

import pytest

from nitrokit.image.errors import FetchError
from nitrokit.image.fetch import fetch_pool_file
from nitrokit.image.mirrors import apt_mirrors

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT. ``cut``: how often it breaks off in the middle; ``ranges``: whether it knows Range."""

    cut = 0
    ranges = True
    seen: ClassVar[list[str | None]] = []
    uri = ""

    def do_GET(self):
        wanted = self.headers.get("Range")
        type(self).seen.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT)
        if type(self).cut:
            type(self).cut -= 1
            end = start + (len(CONTENT) - start) // 2
        self.wfile.write(CONTENT[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler: Any = type("Handler", (_Handler,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.uri = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


def _fetch(mirror, cache):
    return fetch_pool_file("pool/x.deb", SHA256, cache=cache, mirrors=lambda: [mirror.uri])


def test_an_interrupted_download_goes_on_where_it_stopped(mirror, tmp_path):
    mirror.cut = 1
    with pytest.raises(FetchError):
        _fetch(mirror, tmp_path)
    assert _fetch(mirror, tmp_path).read_bytes() == CONTENT
    assert mirror.seen == [None, f"bytes={len(CONTENT) // 2}-"]
    assert not list((tmp_path / "partial").iterdir())


def test_a_second_mirror_goes_on_with_the_firsts_part(mirror, tmp_path):
    mirror.cut = 1
    path = fetch_pool_file("pool/x.deb", SHA256, cache=tmp_path, mirrors=lambda: [mirror.uri, mirror.uri])
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(mirror, tmp_path):
    mirror.cut, mirror.ranges = 1, False
    with pytest.raises(FetchError):
        _fetch(mirror, tmp_path)
    assert _fetch(mirror, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [b"<html>an error page</html>", CONTENT + b"more", CONTENT[:-1] + b"x"])
def test_a_part_of_something_else_is_thrown_away(mirror, tmp_path, rest):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / SHA256).write_bytes(rest)
    assert _fetch(mirror, tmp_path).read_bytes() == CONTENT


def test_a_whole_part_is_taken_without_more_bytes(mirror, tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / SHA256).write_bytes(CONTENT)
    assert _fetch(mirror, tmp_path).read_bytes() == CONTENT


def test_a_damaged_cache_is_repaired(mirror, tmp_path):
    _fetch(mirror, tmp_path).write_bytes(b"damaged")
    assert _fetch(mirror, tmp_path).read_bytes() == CONTENT


def test_two_builds_at_once_fetch_it_once(mirror, tmp_path):
    threads = [threading.Thread(target=_fetch, args=(mirror, tmp_path)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mirror.seen == [None]


def test_a_file_that_no_mirror_has_is_named(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/x.deb").write_bytes(b"other content")
    with pytest.raises(FetchError) as caught:
        fetch_pool_file("pool/x.deb", "0" * 64, cache=tmp_path / "cache", mirrors=lambda: [tmp_path.as_uri(), (tmp_path / "none").as_uri()])
    assert caught.value.code == "fetch/gone"
    assert "pool/x.deb" in caught.value.what
    assert not list((tmp_path / "cache" / "sha256").iterdir())


DEBIAN_12 = {
    "sources.list": "# deb http://old/debian bookworm main\ndeb [signed-by=/k.gpg] http://b/debian bookworm main contrib\ndeb-src http://s/debian bookworm main\n",
    "sources.list.d/security.list": "deb http://a/debian-security bookworm-security main # ours\n",
    "sources.list.d/docker.list": "deb [arch=amd64] https://download.example/linux/debian bookworm stable\n",
    "sources.list.d/other.list": "deb http://vendor/apt stable-main vendor\n",
}
DEBIAN_13 = {
    "sources.list.d/debian.sources": (
        "# comment\nTypes: deb deb-src\nURIs: http://c/debian/ http://d/mirror\nSuites: trixie trixie-updates\n trixie-backports\nComponents: main\nSigned-By: /k.pgp\n\n"
        "Types: deb\nURIs: http://a/debian-security\nSuites: trixie-security\nComponents: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off/debian\nSuites: sid\nComponents: main\n\nTypes: deb-src\nURIs: http://src/debian\nSuites: trixie\nComponents: main\n"
    ),
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (DEBIAN_12, ["http://b/debian", "http://a/debian-security", "http://b/debian-security"]),
        (DEBIAN_13, ["http://c/debian", "http://d/mirror", "http://a/debian-security", "http://c/debian-security"]),
    ],
    ids=["one line each", "deb822"],
)
def test_mirrors_come_from_either_form_of_apts_sources(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert apt_mirrors(tmp_path) == expected


def test_a_cloud_images_list_of_mirrors_is_followed(tmp_path):
    (tmp_path / "mirrors").mkdir()
    (tmp_path / "mirrors/debian.list").write_text("# ours\nhttp://cdn/debian\tpriority:1\nhttp://far/debian\n")
    (tmp_path / "sources.list").write_text(
        f"deb mirror+file://{tmp_path}/mirrors/debian.list trixie main\ndeb mirror+file:/nowhere trixie main\n"
    )
    assert apt_mirrors(tmp_path) == ["http://cdn/debian", "http://far/debian", "http://cdn/debian-security", "http://far/debian-security"]


@pytest.mark.parametrize("text", ["", "deb http://archive.example/ubuntu noble main\n", "deb cdrom:[Debian] bookworm main\n"])
def test_a_machine_without_debians_archive_is_told(tmp_path, text):
    (tmp_path / "sources.list").write_text(text)
    with pytest.raises(FetchError) as caught:
        apt_mirrors(tmp_path)
    assert caught.value.code == "fetch/no-mirror"


def _lying(body, status=200):
    """A server that answers everything so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def test_of_a_list_of_mirrors_the_one_that_has_it_is_found_and_else_each_says_why(mirror, tmp_path):
    """One has lost the file, one sends something else, one is gone, one breaks off in the middle."""
    servers = [_lying(b"no such file", 404), _lying(CONTENT[:-1] + b"?"), _lying(b"")]
    (_, lost), (_, liar), (gone_server, gone) = servers
    gone_server.server_close()
    mirror.cut = 1
    path = fetch_pool_file("pool/x.deb", SHA256, cache=tmp_path, mirrors=lambda: [lost, liar, gone, mirror.uri, mirror.uri])
    assert path.read_bytes() == CONTENT
    assert fetch_pool_file("pool/x.deb", SHA256, cache=tmp_path, mirrors=list) == path, "offline, once it is cached"
    with pytest.raises(FetchError) as caught:
        fetch_pool_file("pool/y.deb", "0" * 64, cache=tmp_path, mirrors=lambda: [lost, liar, gone])
    assert "pool/y.deb" in caught.value.what
    got = str(caught.value.got).split("; ")
    assert [one.startswith(uri) for one, uri in zip(got, (lost, liar, gone), strict=True)] == [True] * 3
    assert ("404" in got[0], "other content" in got[1], "refused" in got[2]) == (True, True, True)
    for server, _ in servers:
        server.shutdown()


def test_wheels_that_are_gone_are_named(tmp_path, monkeypatch):
    """By the real pip, offline."""
    from nitrokit.image.fetch import fetch_wheels

    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"gone-wheel==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(FetchError) as caught:
        fetch_wheels(requirements, python="3.11", arch="x86_64", cache=tmp_path / "cache")
    assert caught.value.code == "fetch/wheels"
    assert "gone-wheel==1.0" in str(caught.value.got)
    assert not list((tmp_path / "cache/wheels").glob("*/"))
