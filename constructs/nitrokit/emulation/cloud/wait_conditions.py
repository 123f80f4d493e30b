"""AWS::CloudFormation::WaitConditionHandle: a place in S3 to which somebody tells how it went. As with the real service, whoever has the address may write there.

Who waits locally is the association, which runs the document itself and fails with its cause; so a wait condition is there and does nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

HANDLE = "AWS::CloudFormation::WaitConditionHandle"
CONDITION = "AWS::CloudFormation::WaitCondition"


def bucket_of(region: str) -> str:
    """Where a region's signals go (CloudFormation User Guide "Setting up VPC endpoints for CloudFormation")."""
    return f"cloudformation-waitcondition-{region}"


def place(bucket: str, account_id: str, region_name: str) -> str:
    """A new one in this bucket, by its path."""
    from moto.s3.models import s3_backends

    backend = s3_backends[account_id]["aws"]
    if bucket not in backend.buckets:
        backend.create_bucket(bucket, region_name)
    return f"{bucket}/{uuid.uuid4()}"


def handle(base: Any, endpoint_url: Callable[[], str]) -> Any:
    """The resource type, from one that does nothing."""

    class Handle(base):
        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any
        ) -> Any:
            return cls(f"{endpoint_url()}/{place(bucket_of(region_name), account_id, region_name)}")

    return Handle
