"""What grants open in the local KMS, and what they do not."""

import json

import pytest
from botocore.exceptions import ClientError


def _code(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def test_a_grant_with_constraints_opens_nothing_and_re_encryption_needs_both_keys(local):
    """KMS Developer Guide "Grants"; KMS API Reference, ReEncrypt "Required permissions". Constraints are not looked at here: a grant that has some is none."""
    user, owner = local.create_role("grantee"), local.create_role("grantor")
    may_all = {"Effect": "Allow", "Principal": {"AWS": owner}, "Action": "kms:*", "Resource": "*"}
    plain = json.dumps({"Version": "2012-10-17", "Statement": [may_all]})
    kms, granted = local.client("kms", role_arn=owner), local.client("kms", role_arn=user)
    one, other = (kms.create_key(Policy=plain)["KeyMetadata"]["KeyId"] for _ in range(2))
    ciphertext = kms.encrypt(KeyId=one, Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
    request = {"CiphertextBlob": ciphertext, "EncryptionContext": {"a": "b"}}
    kms.create_grant(KeyId=one, GranteePrincipal=user, Operations=["Decrypt"], Constraints={"EncryptionContextEquals": {"c": "d"}})
    assert _code(granted.decrypt, **request) == "AccessDeniedException"
    kms.create_grant(KeyId=other, GranteePrincipal=user, Operations=["ReEncryptTo"])
    again = {"CiphertextBlob": ciphertext, "SourceEncryptionContext": {"a": "b"}, "DestinationKeyId": other}
    assert _code(granted.re_encrypt, **again) == "AccessDeniedException"
    kms.create_grant(KeyId=one, GranteePrincipal=user, Operations=["Decrypt", "ReEncryptFrom"])
    assert granted.decrypt(**request)["Plaintext"] == b"x"
    assert granted.re_encrypt(**again)["CiphertextBlob"]
