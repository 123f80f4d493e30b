"""A parent under the emulation, with the hello image in its S3."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from nitrokit.core.eif import read_eif
from nitrokit.emulation.interfaces import InstanceDescription
from nitrokit.emulation.nitro.instance import EmulatedInstance
from nitrokit.emulation.nitro.runners import ProcessRunner
from nitrokit.host.bundle import build_agent

ROOT = Path(__file__).parents[3]
INSTANCE = "i-0123456789abcdef0"
AWS = """#!/bin/sh
# s3api head-object|get-object --bucket B --key K [--range bytes=A-B FILE]
object=/opt/s3/$(basename "$6")
case "$2" in
  head-object) echo "{\\"ContentLength\\": $(stat -c %s "$object")}" ;;
  get-object) range=${8#bytes=}; tail -c +$((${range%-*} + 1)) "$object" | head -c $((${range#*-} - ${range%-*} + 1)) > "$9" ;;
  *) exit 1 ;;
esac
"""


def make_emulated(folder, pki):
    """The instance; ``folder``/opt/s3 is what S3 would give."""
    description = InstanceDescription(
        INSTANCE,
        "us-east-1",
        "123456789012",
        "arn:aws:iam::123456789012:role/x",
        True,
        {},
        {"kms.us-east-1.amazonaws.com:443": ("127.0.0.1", 9)},
    )
    instance = EmulatedInstance(
        description, folder, pki=pki, tls_authorities="", runner=ProcessRunner("test"), now=lambda: datetime.now(UTC)
    )
    (folder / "opt/nitrokit").mkdir(parents=True)
    (folder / "opt/nitrokit/agent.pyz").write_bytes(build_agent())
    (folder / "opt/s3").mkdir()
    (folder / "bin/aws").write_text(AWS)
    return instance


def make_hello(folder):
    """The hello image with a kernel of a few bytes: the process runner needs none."""
    from nitrokit.image.build import build_image
    from nitrokit.image.fetch import cache_dir
    from nitrokit.image.kernel import find_kernel

    (folder / "bzImage").write_bytes(b"ker")
    kernel = find_kernel({"NITROKIT_BLOBS": str(folder)}, folder, print)
    return build_image(
        ROOT / "enclave_images/hello", kernel=kernel, output=folder / "hello.eif", cache=cache_dir(os.environ), progress=lambda _: None
    ).eif


def hello_configuration(eif, **changes):
    measured = read_eif(eif.read_bytes()).measurements
    value = {
        "name": "hello", "image_uri": "s3://bucket/hello.eif", "image_sha256": hashlib.sha256(eif.read_bytes()).hexdigest(),
        "measurements": {f"PCR{index}": pcr.hex() for index, pcr in measured.pcrs().items()}, "cpu_count": 2, "memory_mib": 320, "cid": 16,
        "proxies": [{"vsock_port": 8001, "host": "kms.us-east-1.amazonaws.com", "port": 443}],
    }  # fmt: skip
    return json.dumps({**value, **changes})
