"""Who calls: SigV4 signatures checked against the keys that this cloud has given out. moto takes any key for anybody."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


@dataclass(frozen=True)
class Caller:
    """``principal_arn``: of the user or role; ``session_arn``: of a role's session."""

    principal_arn: str
    account: str
    session_arn: str | None = None


@dataclass(frozen=True)
class Keys:
    """Credentials, as a client needs them."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None
    caller: Caller


class SignatureError(Exception):
    """A request that nobody known signed; ``kind`` and message are what AWS would answer (KMS API Reference, "Common Errors")."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Identities:
    """The credentials of this cloud: one operator, and sessions of roles (given by EC2, Lambda and STS)."""

    def __init__(self, account: str, region: str) -> None:
        self._account = account
        self._region = region
        # An own key for each cloud: the CDK CLI caches key → account.
        self.operator = Keys(
            f"AKIA{secrets.token_hex(8).upper()}",
            secrets.token_hex(20),
            None,
            Caller(f"arn:aws:iam::{account}:user/platform-team", account),
        )
        self._known: dict[str, Keys] = {self.operator.access_key_id: self.operator}

    def for_role(self, role_arn: str, session: str) -> Keys:
        """New temporary credentials of a role."""
        from moto.sts.models import sts_backends

        role = sts_backends[self._account]["aws"].assume_role(self._region, session, role_arn, "", 3600, "")
        return self._remember(role)

    def _remember(self, role: Any) -> Keys:
        keys = Keys(
            role.access_key_id, role.secret_access_key, role.session_token, Caller(role.role_arn, role.role_arn.split(":")[4], role.arn)
        )
        self._known[keys.access_key_id] = keys
        return keys

    def _find(self, access_key_id: str) -> Keys | None:
        from moto.sts.models import sts_backends

        if access_key_id in self._known:
            return self._known[access_key_id]
        role = sts_backends[self._account]["aws"].get_assumed_role_from_access_key(access_key_id)
        return None if role is None else self._remember(role)

    def authenticate(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Caller:
        """The caller of a signed request. Raises SignatureError."""
        lowered = {name.lower(): value for name, value in headers.items()}
        fields = dict(part.strip().partition("=")[::2] for part in lowered.get("authorization", "").partition(" ")[2].split(","))
        try:
            access_key_id, _date, region, service, _ = fields["Credential"].split("/")
            signed = fields["SignedHeaders"].split(";")
            signature = fields["Signature"]
            timestamp = lowered["x-amz-date"]
        except (KeyError, ValueError) as error:
            raise SignatureError("MissingAuthenticationTokenException", "Missing Authentication Token") from error
        keys = self._find(access_key_id)
        if keys is None or (keys.session_token or "") != lowered.get("x-amz-security-token", ""):
            raise SignatureError("UnrecognizedClientException", "The security token included in the request is invalid.")
        request = AWSRequest(method=method, url=url, data=body, headers={name: lowered.get(name, "") for name in signed})
        request.context["timestamp"] = timestamp
        signer = SigV4Auth(Credentials(keys.access_key_id, keys.secret_access_key), service, region)
        expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        if not hmac.compare_digest(expected, signature):
            raise SignatureError(
                "InvalidSignatureException", "The request signature we calculated does not match the signature you provided."
            )
        return keys.caller
