"""AWS::SNS::Subscription, which moto 5.2.5's CloudFormation does not know. Mail is sent to nobody locally, and nobody need confirm; `aws sns list-subscriptions` shows who would be told."""

from __future__ import annotations

from typing import Any

TYPE = "AWS::SNS::Subscription"


def subscription(base: Any) -> Any:
    """The resource type, from one that does nothing."""

    class Subscription(base):
        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any
        ) -> Any:
            given = cloudformation_json["Properties"]
            made = _topics(account_id, region_name).subscribe(given["TopicArn"], given["Endpoint"], given["Protocol"])
            return cls(made.arn)

        @classmethod
        def update_from_cloudformation_json(
            cls, original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
        ) -> Any:
            # The topic, the protocol and the endpoint are each "Update requires: Replacement" (CloudFormation Template Reference).
            cls.delete_from_cloudformation_json(original_resource.physical_resource_id, cloudformation_json, account_id, region_name)
            return cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)

        @classmethod
        def delete_from_cloudformation_json(cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str) -> None:
            _topics(account_id, region_name).unsubscribe(resource_name)

    return Subscription


def _topics(account_id: str, region_name: str) -> Any:
    from moto.sns.models import sns_backends

    return sns_backends[account_id][region_name]
