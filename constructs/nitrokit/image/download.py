"""Downloads that go on where they stopped."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO

from nitrokit.image.mirrors import apt_proxies

UNREACHABLE = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
"""What a mirror that cannot be had raises."""
_TIMEOUT = 60
_CHUNK = 1 << 20
_LARGE = 32 << 20


def download(url: str, file: IO[bytes], progress: Callable[[str], None]) -> None:
    """Append what ``file`` does not have yet. Raises one of UNREACHABLE."""
    file.seek(0, os.SEEK_END)
    have = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({**apt_proxies(), **urllib.request.getproxies()}))
    try:
        answer = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # there is no more than what we have
        raise
    with answer:
        if have and getattr(answer, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
            have = 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            if total > _LARGE:
                progress(f"{have >> 20} of {total >> 20} MB")
        file.flush()
    if have < total:
        raise http.client.IncompleteRead(b"", total - have)
