"""The instance role's credentials, by IMDSv2 (EC2 User Guide "Use IMDSv2"). They open nothing by themselves: KMS wants the enclave's attestation too."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Dict

from nitrokit.host.config import AgentError

_TIMEOUT = 5


def role_credentials() -> Dict[str, str]:
    """access_key_id, secret_access_key, session_token. Raises AgentError."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    try:
        token = _fetch(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
        header = {"X-aws-ec2-metadata-token": token}
        folder = f"{base}/latest/meta-data/iam/security-credentials/"
        role = _fetch(folder, header).splitlines()[0]
        value = json.loads(_fetch(f"{folder}{role}", header))
        return {"access_key_id": value["AccessKeyId"], "secret_access_key": value["SecretAccessKey"], "session_token": value["Token"]}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise AgentError(
            "no-credentials",
            "the instance role's credentials cannot be had",
            got=type(error).__name__,
            expected="an instance profile, and IMDSv2",
        ) from error


def _fetch(url: str, headers: Dict[str, str], method: str = "GET") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=_TIMEOUT) as answer:
        text: str = answer.read().decode()
        return text
