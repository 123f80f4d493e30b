"""EnclaveKey: a KMS key that opens for attested enclaves alone."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Aws, CfnDeletionPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.core.key_policy import build_key_policy


class EnclaveKey(Construct):
    """A symmetric KMS key whose policy takes its PCR conditions from images' locks.

    - ``images``: enclaves of any of these may decrypt (one statement each). At least one.
    - ``host_role``: the role of the parent instances; nobody else's credentials work, attested or not.
    - ``data_owners``: ARNs that may encrypt, from any account. Default: none.
    - ``sealed``: nobody may ever change the policy, not even the account's root. Default True; a new image then needs a new key. When False, ``administrator_arn`` must be named
      and alone may change it: whoever that is could open everything.
    - The key stays when the stack goes (deletion would destroy data), and rotates every year.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        images: Sequence[EnclaveImage],
        host_role: iam.IRole,
        data_owners: Sequence[str] = (),
        sealed: bool = True,
        administrator_arn: str | None = None,
        description: str | None = None,
    ) -> None:
        super().__init__(scope, id)
        policy = build_key_policy(
            measurements=[image.measurements for image in images],
            host_role_arn=host_role.role_arn,
            account=Aws.ACCOUNT_ID,
            partition=Aws.PARTITION,
            data_owner_arns=data_owners,
            administrator_arn=administrator_arn,
            sealed=sealed,
        )
        self._key = kms.CfnKey(
            self,
            "Resource",
            key_policy=policy,
            description=description or f"Opens for the attested enclaves {', '.join(image.name for image in images)} alone",
            enable_key_rotation=True,
            # The check wants the caller to be able to change the policy again, which is what sealing rules out.
            bypass_policy_lockout_safety_check=sealed,
        )
        self._key.cfn_options.deletion_policy = CfnDeletionPolicy.RETAIN
        self._key.cfn_options.update_replace_policy = CfnDeletionPolicy.RETAIN

    @property
    def key_arn(self) -> str:
        return self._key.attr_arn

    @property
    def key_id(self) -> str:
        return self._key.ref
