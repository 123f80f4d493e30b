"""The instance metadata service, version 2 alone, at /imds/<instance id>/ of the cloud's port. moto's is version 1, on a fixed address.

Source: EC2 User Guide "Instance metadata categories"; the SDKs' variable AWS_EC2_METADATA_SERVICE_ENDPOINT leads clients here.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta

from nitrokit.emulation.cloud.identity import Identities
from nitrokit.emulation.interfaces import InstanceDescription

PREFIX = "/imds/"
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Metadata:
    """Answers for every instance that was added."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._instances: dict[str, InstanceDescription] = {}
        self._tokens: set[str] = set()

    def add(self, description: InstanceDescription) -> None:
        self._instances[description.instance_id] = description

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, bytes]:
        """``path``: behind the prefix."""
        instance_id, _, rest = path.partition("/")
        description = self._instances.get(instance_id)
        if description is None:
            return 404, b"no such instance"
        if rest == "latest/api/token" and method == "PUT":
            self._tokens.add(fresh := secrets.token_urlsafe(32))
            return 200, fresh.encode()
        if token not in self._tokens:
            return 401, b"Unauthorized"
        text = self._document(description, rest.removeprefix("latest/"))
        return (404, b"Not Found") if text is None else (200, text.encode())

    def _document(self, description: InstanceDescription, path: str) -> str | None:
        role = (description.role_arn or "").rsplit("/", 1)[-1]
        identity = {"instanceId": description.instance_id, "region": description.region, "accountId": description.account}
        plain = {
            "meta-data/instance-id": description.instance_id,
            "meta-data/placement/region": description.region,
            "meta-data/placement/availability-zone": f"{description.region}a",
            "meta-data/services/domain": "amazonaws.com",
            "dynamic/instance-identity/document": json.dumps(identity),
        }
        if role:
            plain["meta-data/iam/security-credentials"] = role
        found = plain.get(path.rstrip("/"))
        if found is None and role and path == f"meta-data/iam/security-credentials/{role}":
            return self._credentials(description)
        return found

    def _credentials(self, description: InstanceDescription) -> str:
        assert description.role_arn is not None
        keys = self._identities.for_role(description.role_arn, description.instance_id)
        now = datetime.now(UTC)
        return json.dumps({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now.strftime(_FORMAT), "Expiration": (now + timedelta(hours=6)).strftime(_FORMAT),
            "AccessKeyId": keys.access_key_id, "SecretAccessKey": keys.secret_access_key, "Token": keys.session_token,
        })  # fmt: skip
