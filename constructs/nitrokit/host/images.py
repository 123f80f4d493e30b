"""An enclave's image on the parent: fetched from S3 by version and SHA-256, or built by nitro-cli from an ECR image; both stand or fall by the lock."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict, List

from nitrokit.host import docker
from nitrokit.host.commands import nitro_cli, run
from nitrokit.host.config import AgentError, Config
from nitrokit.host.files import read_state, remove, replace, settle

_CHUNK = 64 << 20
_TRIES, _WAIT = 4, 1.0
_REFUSED = ("(403)", "(AccessDenied)", "(KMS.")
"""As the aws command prints S3's codes (S3 API Reference "Error responses"); a key that is gone or disabled is KMS.NotFoundException, KMS.DisabledException."""
_ROOM = 64 << 20  # for what else the parent writes meanwhile


def image(config: Config) -> Dict[str, Any]:
    """Bring the image here, unless it is; under its name it appears only whole. Raises AgentError."""
    present = config.eif.is_file() and (bool(config.docker_uri) or sha256(config.eif) == config.image_sha256)
    if not present:
        config.eif.parent.mkdir(parents=True, exist_ok=True)
        if config.docker_uri:
            docker.build(config, config.eif)
        else:
            _fetch(config)
    _forget_others(config)
    return {"image": str(config.eif), "fetched": not present}


def verify(config: Config, eif: Path) -> Dict[str, Any]:
    """Compare an image's PCRs with the lock; refuse it naming every PCR that differs. Raises AgentError."""
    if not eif.is_file():
        raise AgentError(
            "no-image", "there is no such image", got=str(eif), expected="a file", do="run the image step, or name another file"
        )
    measured = nitro_cli(["describe-eif", "--eif-path", str(eif)], "measuring the image").get("Measurements", {})
    differing = [name for name, locked in sorted(config.measurements.items()) if str(measured.get(name, "")).lower() != locked]
    if differing:
        raise AgentError(
            "drift",
            f"{eif} is not the locked image: {', '.join(differing)} differ",
            got="; ".join(f"{name} {measured.get(name, 'nothing')}" for name in differing),
            expected="; ".join(f"{name} {config.measurements[name]}" for name in differing),
            do="do not run it; find out where it comes from, or lock and deploy the new image",
        )
    return {"image": str(eif), "measurements": "as locked"}


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(config: Config) -> None:
    """Go on where a killed agent stopped; begin anew when that turns out wrong."""
    part = config.eif.with_suffix(".part")
    resumed = part.is_file()
    got = _download(config, part)
    if got != config.image_sha256 and resumed:
        remove(part)
        got = _download(config, part)
    if got != config.image_sha256:
        remove(part)
        raise AgentError(
            "image-sha256",
            "the fetched image is not the one deployed",
            got=got,
            expected=config.image_sha256,
            do="deploy again; if it stays, somebody changed the object",
        )
    replace(part, config.eif)


def _download(config: Config, part: Path) -> str:
    size = _size(config)
    have = part.stat().st_size if part.is_file() else 0
    needed = size - have + min(_CHUNK, size) + _ROOM
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise _disk_full(part, f"{free >> 20} MiB free", f"{needed >> 20} MiB")
    while have < size:
        _append(part, _range(config, part, have, min(have + _CHUNK, size)))
        have = part.stat().st_size
    return sha256(part)


def _object(config: Config) -> List[str]:
    bucket, key = config.s3
    version = ["--version-id", config.image_version] if config.image_version else []
    return ["--bucket", bucket, "--key", key, *version]


def _size(config: Config) -> int:
    text = _s3(["aws", "s3api", "head-object", *_object(config), "--output", "json"], "finding the image", timeout=60)
    try:
        return int(json.loads(text)["ContentLength"])
    except (ValueError, KeyError, TypeError) as error:
        raise AgentError("image", "S3 does not tell the image's size", got=text[:200]) from error


def _s3(command: List[str], what: str, *, timeout: float) -> str:
    """A call of S3; one that is refused is told with what the role needs. S3 names the key to GetObject only: a HEAD has no body (S3 API Reference HeadObject)."""
    try:
        return run(command, what, "image", timeout=timeout)
    except AgentError as error:
        if any(sign in str(error.got) for sign in _REFUSED):
            needs = "s3:GetObject for the parent's role, and kms:Decrypt on the key that encrypts the bucket, if there is one"
            do = 'let the key\'s policy or the role allow it: docs/deploy.md, "Buckets with a KMS key"'
            raise AgentError("image-denied", f"{what} failed: S3 or KMS refuses it", got=error.got, expected=needs, do=do) from error
        raise


def _range(config: Config, part: Path, start: int, end: int) -> Path:
    """Bytes ``start`` to ``end`` of the object as a file. A range that fails is tried again: S3 may be slow or busy."""
    chunk = part.with_suffix(".chunk")
    command = ["aws", "s3api", "get-object", *_object(config), "--range", f"bytes={start}-{end - 1}", str(chunk)]
    for attempt in range(_TRIES):
        remove(chunk)
        try:
            _s3(command, "fetching the image", timeout=300)
            if chunk.stat().st_size == end - start:
                return chunk
            error = AgentError("image", "S3 gave a part of what was asked for", got=chunk.stat().st_size, expected=end - start)
        except AgentError as failure:
            error = failure
            if "No space left" in str(failure.got):
                remove(chunk)
                raise _given_up(part, failure.got) from failure
        except OSError as failure:
            error = AgentError("image", "S3 gave nothing", got=str(failure))
        if attempt < _TRIES - 1:
            time.sleep(_WAIT * 2**attempt)
    remove(chunk)
    raise error


def _append(part: Path, chunk: Path) -> None:
    try:
        with part.open("ab") as target, chunk.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            settle(target.fileno())
    except OSError as error:
        raise _given_up(part, error) from error
    finally:
        remove(chunk)


def _given_up(part: Path, got: object) -> AgentError:
    """Others on the parent need the room more."""
    remove(part)
    return _disk_full(part, str(got), "room for the image")


def _disk_full(part: Path, got: str, expected: str) -> AgentError:
    return AgentError(
        "disk-full",
        f"{part.parent} has no room for the image",
        got=got,
        expected=expected,
        do="give the instance a larger volume; `journalctl --vacuum-size=100M` frees some",
    )


def _forget_others(config: Config) -> None:
    """Remove images that neither the configuration nor the running or the last good enclave names, and parts of them."""
    kept = {config.eif.name}
    for name in ("current.json", "good.json"):
        state = read_state(config.state / name)
        kept |= {f"{state.get('image_sha256')}.eif", f"{(state.get('measurements') or {}).get('PCR0')}.eif"}
    for path in config.eif.parent.iterdir():
        if path.name not in kept and path.suffix in (".eif", ".part", ".chunk"):
            os.unlink(path)
