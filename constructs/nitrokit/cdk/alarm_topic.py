"""AlarmTopic: where alarms go, encrypted under a key that CloudWatch may use."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from nitrokit.cdk.known import is_token, need_type

_EMAIL = re.compile(r"\S+@\S+")


class AlarmTopic(sns.Topic):
    """An SNS topic by TLS alone, with a key of its own: CloudWatch cannot publish under the account's (CloudWatch User Guide, "Notifying users on alarm changes").

    - ``email``: who is told; default nobody yet: ``topic.add_subscription(…)``. The receiver must confirm.
    """

    def __init__(self, scope: Construct, id: str, *, email: str | None = None) -> None:
        need_type(str, email=email)
        if email is not None and not is_token(email) and not _EMAIL.fullmatch(email):
            raise ValueError(f"email is {email!r:.80}; expected an address like ops@example.com")
        key = kms.Key(scope, f"{id}Key", enable_key_rotation=True, description="Alarms of enclaves")
        super().__init__(scope, id, master_key=key, enforce_ssl=True)
        cloud_watch = iam.ServicePrincipal("cloudwatch.amazonaws.com")
        key.grant_encrypt_decrypt(cloud_watch)
        self.grant_publish(cloud_watch)
        if email:
            self.add_subscription(subscriptions.EmailSubscription(email))

    def take(self, alarms: Iterable[cloudwatch.AlarmBase]) -> None:
        """Send these alarms here, and their end too."""
        for alarm in alarms:
            alarm.add_alarm_action(actions.SnsAction(self))
            alarm.add_ok_action(actions.SnsAction(self))
