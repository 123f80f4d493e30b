"""The metadata service gives a role's credentials to who has its token, and to nobody else."""

from nitrokit.emulation.cloud.identity import Identities
from nitrokit.emulation.cloud.metadata import Metadata
from nitrokit.emulation.interfaces import InstanceDescription

ACCOUNT, REGION = "123456789012", "us-east-1"


def test_credentials_want_a_token_that_was_given():
    service = Metadata(Identities(ACCOUNT, REGION))
    service.add(InstanceDescription("i-1", REGION, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/host", True, {}, {}))
    token = service.answer("PUT", "i-1/latest/api/token", None)[1].decode()
    path = "i-1/latest/meta-data/iam/security-credentials/host"
    assert [service.answer("GET", path, given)[0] for given in (None, "", "x", token)] == [401, 401, 401, 200]
