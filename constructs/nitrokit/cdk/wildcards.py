"""Wildcards in what a role may do that are meant, each told to cdk-nag (its rule AwsSolutions-IAM5) with the reason."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import IConstruct

_ACTION = re.compile(r"[a-z0-9-]+:[A-Za-z*?]+")
BUCKET_WRITES = ("s3:Abort*", "s3:DeleteObject*", "s3:GetBucket*", "s3:GetObject*", "s3:List*", "kms:GenerateDataKey*", "kms:ReEncrypt*")
"""What the CDK's grants on buckets, and on their keys, come with."""


def acknowledge_wildcards(construct: object, *wildcards: str, reason: str) -> None:
    """``wildcards``: actions and resources as they stand in statements of roles at or below ``construct``, tokens and all. What is no construct has no policy here."""
    # Construct.is_construct fails for principals that are none.
    if not hasattr(construct, "node"):
        return
    scope = cast("IConstruct", construct)
    found = Stack.of(scope).resolve(list(wildcards))
    Validations.of(scope).acknowledge(*(Acknowledgment(id=finding(one), reason=reason) for one in found))


def finding(wildcard: Any) -> str:
    """Its id, of an action or resource as it stands in the template."""
    kind = "Action" if isinstance(wildcard, str) and _ACTION.fullmatch(wildcard) else "Resource"
    return f"AwsSolutions-IAM5[{kind}::{_shown(wildcard)}]"


def _shown(value: Any) -> str:
    """As cdk-nag prints it: references in angle brackets."""
    match value:
        case str():
            return value
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(map(_shown, parts))
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
    return json.dumps(value, separators=(",", ":"))
