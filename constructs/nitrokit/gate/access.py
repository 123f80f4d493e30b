"""What the gate's credentials must be allowed: reading, and asking hosts by the two documents that nitrokit deploys."""

from __future__ import annotations

from typing import Any

_STACK = ("cloudformation:DescribeStacks", "cloudformation:GetTemplate", "cloudformation:ListStackResources")
_KEYS = ("kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants")
_ANY = ("cloudformation:ListExports", "ec2:DescribeInstances", "ssm:GetCommandInvocation")
"""These take no resource (Service Authorization Reference)."""


def access_policy(*stacks: str, account: str = "*", region: str = "*", partition: str = "aws") -> dict[str, Any]:
    """An IAM policy that suffices for every comparison. ``stacks``: their names, default any; the names of nested stacks and documents begin with them, as CloudFormation makes them.

    The key policies must leave reading to IAM too, as EnclaveKey's do. ``ssm:SendCommand`` can run these documents alone: they ask an enclave for a document and the agent for its state.
    """

    def arn(service: str, resource: str) -> str:
        return f"arn:{partition}:{service}:{region}:{account}:{resource}"

    names = stacks or ("*",)
    documents = [arn("ssm", f"document/{name}-*{kind}Document*") for name in names for kind in ("Attest", "Status")]
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("ReadStack", _STACK, [arn("cloudformation", f"stack/{name}{rest}/*") for name in names for rest in ("", "-*")]),
            _allow("ReadKeys", _KEYS, [arn("kms", "key/*")]),
            _allow("AskHosts", ("ssm:SendCommand",), [*documents, arn("ec2", "instance/*")]),
            _allow("ReadAnswers", _ANY, ["*"]),
        ],
    }


def _allow(sid: str, actions: tuple[str, ...], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resources}
