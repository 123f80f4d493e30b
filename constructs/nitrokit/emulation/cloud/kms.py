"""KMS as data owners rely on it. moto ignores key policies, conditions and ``Recipient``; this front checks the caller's signature, verifies the attestation document,
evaluates the key's deployed policy and answers with CiphertextForRecipient. moto keeps the keys.

Source of shapes and names: KMS API Reference; botocore's kms service model.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from nitrokit.core.attestation import DocumentError, TrustAnchor, VerificationError, VerifiedDocument, verify_document
from nitrokit.core.cms import seal_enveloped_data
from nitrokit.core.key_policy import AccessRequest, Decision, PolicyError, authorize, evaluate_identity
from nitrokit.emulation.cloud.identity import Caller, Identities, SignatureError
from nitrokit.emulation.cloud.kms_error import KmsError
from nitrokit.emulation.cloud.kms_pairs import derive_shared_secret, generate_data_key_pair
from nitrokit.emulation.cloud.kms_permissions import attributes, granted, permissions

TARGET = "TrentService."
_KEYLESS = {"CreateKey", "ListKeys", "ListAliases"}
_RECIPIENT = {
    "Decrypt": "Plaintext",
    "GenerateDataKey": "Plaintext",
    "GenerateRandom": "Plaintext",
    "GenerateDataKeyPair": "PrivateKeyPlaintext",
    "DeriveSharedSecret": "SharedSecret",
}
Context = dict[str, str | list[str]]
Forward = Callable[[str, bytes], tuple[int, bytes]]


@dataclass(frozen=True)
class KmsEvent:
    """One decision, as CloudTrail would show it. ``reason`` is for the emulation's owner: the caller is told no more than KMS tells."""

    caller: str
    action: str
    allowed: bool
    reason: str
    key: str = ""
    pcr0: str | None = None


class KmsFront:
    """Answers TrentService requests; ``forward`` hands one to moto."""

    def __init__(
        self, *, identities: Identities, trust_anchor: TrustAnchor, now: Callable[[], datetime], account: str, region: str, forward: Forward
    ) -> None:
        self._identities = identities
        self._trust_anchor = trust_anchor
        self._now = now
        self._account = account
        self._region = region
        self._forward = forward
        self.events: list[KmsEvent] = []

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one request."""
        ids = {"x-amzn-RequestId": str(uuid.uuid4()), "Content-Type": "application/x-amz-json-1.1"}
        try:
            status, answer = self._answer(method, url, headers, body)
            return status, ids, answer
        except KmsError as error:
            text = json.dumps({"__type": error.kind, "message": str(error)}).encode()
            return error.status, ids | {"x-amzn-ErrorType": error.kind}, text

    def _answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        action = next((value for name, value in headers.items() if name.lower() == "x-amz-target"), "").removeprefix(TARGET)
        try:
            caller = self._identities.authenticate(method, url, headers, body)
            request = json.loads(body or b"{}")
        except SignatureError as error:
            raise KmsError(error.kind, str(error)) from error
        except ValueError as error:
            raise KmsError("SerializationException", "not JSON") from error
        recipient = request.pop("Recipient", None)
        document = self._attested(action, recipient)
        self._authorize(action, request, caller, document)
        status, answer = self._perform(action, request)
        if document is None or status != 200:
            return status, answer
        return status, _for_recipient(answer, _RECIPIENT[action], document)

    def _perform(self, action: str, request: dict[str, Any]) -> tuple[int, bytes]:
        match action:
            case "GenerateDataKeyPair":
                return generate_data_key_pair(request, self._key(request), self._forward)
            case "Decrypt" if request.get("KeyId"):
                self._require_its_key(request)
            case "DeriveSharedSecret":
                return derive_shared_secret(request, self._key(request))
        return self._forward(f"{TARGET}{action}", json.dumps(request).encode())

    def _require_its_key(self, request: dict[str, Any]) -> None:
        try:
            key = self._key({"CiphertextBlob": request.get("CiphertextBlob")})
        except KmsError:
            return  # of no key of ours: moto says what KMS does
        if key.id != self._key(request).id:
            raise KmsError("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")

    def _attested(self, action: str, recipient: Any) -> VerifiedDocument | None:
        """The verified document of a request's Recipient; None where there is no Recipient."""
        if recipient is None:
            return None
        if action not in _RECIPIENT:
            raise KmsError("ValidationException", f"{action} takes no Recipient")
        try:
            if recipient["KeyEncryptionAlgorithm"] != "RSAES_OAEP_SHA_256":
                raise KmsError("ValidationException", "unknown KeyEncryptionAlgorithm")
            data = base64.b64decode(recipient["AttestationDocument"], validate=True)
            return verify_document(data, trust_anchor=self._trust_anchor, time=self._now())
        except (KeyError, TypeError, binascii.Error, DocumentError, VerificationError) as error:
            raise KmsError("ValidationException", f"the attestation document is not valid: {error}") from error

    def _authorize(self, action: str, request: dict[str, Any], caller: Caller, document: VerifiedDocument | None) -> None:
        context: Context = {**_context(request, caller, document), "aws:CurrentTime": self._now().isoformat()}
        if action == "GenerateRandom":
            access = _access(action, caller, "*", context)
            self._record(evaluate_identity(identity_policies(caller.principal_arn), access), access, caller, document)
        elif action not in _KEYLESS:
            for permission, key in permissions(action, request, self._key):
                access = _access(permission, caller, key.arn, {**context, **attributes(key, request, self._tags(key))})
                self._record(granted(decide(key.policy, access, self._account), access, key), access, caller, document)

    def _record(self, decision: Decision, access: AccessRequest, caller: Caller, document: VerifiedDocument | None) -> None:
        """Keep the decision. Raises KmsError when it is a refusal."""
        pcr0 = document.pcrs.get(0, b"").hex() if document else None
        self.events.append(
            KmsEvent(
                caller.session_arn or caller.principal_arn,
                access.action,
                decision.allowed,
                f"{decision.reason} ({decision.statement})",
                str(access.resource),
                pcr0,
            )
        )
        if not decision.allowed:
            how = (
                "with an explicit deny in a resource-based policy"
                if decision.reason == "explicit deny"
                else f"because no {'identity' if access.resource == '*' else 'resource'}-based policy allows the action"
            )
            raise KmsError(
                "AccessDeniedException",
                f"User: {caller.session_arn or caller.principal_arn} is not authorized to perform: {access.action} on this resource {how}",
            )

    def _tags(self, key: Any) -> dict[str, str]:
        from moto.kms.models import kms_backends

        tags: dict[str, str] = kms_backends[self._account][self._region].tagger.get_tag_dict_for_resource(key.id)
        return tags

    def _key(self, request: dict[str, Any]) -> Any:
        """The key that a request names, or whose ciphertext it brings."""
        from moto.kms.models import kms_backends
        from moto.kms.utils import _deserialize_ciphertext_blob

        backend = kms_backends[self._account][self._region]
        key_id = request.get("KeyId")
        try:
            if key_id is None:
                key_id = _deserialize_ciphertext_blob(base64.b64decode(request["CiphertextBlob"])).key_id
            key = backend.describe_key(backend.any_id_to_key_id(key_id))
            if not isinstance(key.policy, str):
                key.policy = json.dumps(key.policy)  # moto keeps CloudFormation's object, and later fails to parse it
            return key
        except Exception as error:  # moto has several
            raise KmsError("NotFoundException", "the key does not exist, or the ciphertext is of none") from error


def _access(permission: str, caller: Caller, resource: str, context: Context) -> AccessRequest:
    return AccessRequest(f"kms:{permission}", caller.principal_arn, caller.account, resource, context, caller.session_arn)


def decide(policy: str | dict[str, Any], access: AccessRequest, key_account: str) -> Decision:
    """What KMS would say; a policy that is not understood opens nothing."""
    try:
        return authorize(policy, identity_policies(access.principal_arn), access, key_account=key_account)
    except PolicyError as error:
        return Decision(False, f"the policy is not understood: {error}")


def _context(request: dict[str, Any], caller: Caller, document: VerifiedDocument | None) -> dict[str, str]:
    context = {"aws:PrincipalArn": caller.principal_arn, "aws:PrincipalAccount": caller.account, "kms:CallerAccount": caller.account}
    context |= {f"kms:EncryptionContext:{name}": value for name, value in (request.get("EncryptionContext") or {}).items()}
    if document is not None:
        context |= {f"kms:RecipientAttestation:PCR{index}": value.hex() for index, value in document.pcrs.items()}
        context["kms:RecipientAttestation:ImageSha384"] = document.pcrs.get(0, b"").hex()
    return context


def _for_recipient(answer: bytes, secret_field: str, document: VerifiedDocument) -> bytes:
    """Put a message for the document's key in the plaintext's place, which is null then (KMS API Reference, Decrypt)."""
    try:
        key = load_der_public_key(document.public_key or b"")
        if not isinstance(key, RSAPublicKey):
            raise ValueError("not an RSA key")
    except ValueError as error:
        raise KmsError("ValidationException", "the attestation document has no RSA public key") from error
    value = json.loads(answer)
    plaintext = base64.b64decode(value[secret_field])
    value[secret_field] = None
    value["CiphertextForRecipient"] = base64.b64encode(seal_enveloped_data(plaintext, key, random=os.urandom)).decode()
    return json.dumps(value).encode()


def identity_policies(principal_arn: str) -> list[dict[str, Any]]:
    """The IAM policies, inline and attached, of a role or user of the local account."""
    from moto.iam.models import iam_backends

    account = principal_arn.split(":")[4]
    backend, name = iam_backends[account]["aws"], principal_arn.rsplit("/", 1)[-1]
    found = next((one for one in [*backend.roles.values(), *backend.users.values()] if one.arn == principal_arn or one.name == name), None)
    if found is None:
        return []
    inline = found.policies.values() if isinstance(found.policies, dict) else found.policies
    documents = [json.loads(one if isinstance(one, str) else one["policy_document"]) for one in inline]
    return documents + [json.loads(one.document) for one in found.managed_policies.values()]
