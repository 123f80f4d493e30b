"""The local AWS, and an enclave's NSM under its PKI."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nitrokit.core.nsm import NsmClient
from nitrokit.emulation.local import LocalAws

HOST = "arn:aws:iam::123456789012:role/host"


@pytest.fixture(scope="module")
def local():
    work = Path("/tmp") / f"nkc{os.getpid()}"
    work.mkdir()
    aws = LocalAws(work, environment={}, runner="process", note=lambda _: None)
    yield aws
    aws.close()
    shutil.rmtree(work, ignore_errors=True)


@pytest.fixture
def nsm(local, measurements):
    """An NSM under the cloud's own PKI."""
    from nitrokit.emulation.nitro.nsm import EmulatedNsm

    def make(**changes):
        arguments = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcde",
            "measurements": measurements,
            "role_arn": HOST,
            "debug": False,
            "pki": local._pki,
        }
        return NsmClient(EmulatedNsm(**{**arguments, **changes}, now=lambda: datetime.now(UTC)).answer)

    return make
