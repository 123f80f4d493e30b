"""A deployed stack, as CloudFormation tells of it: physical names, and the template with its functions resolved by them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nitrokit.core.intrinsics import resolve

_ARNS = {
    "AWS::IAM::Role": "arn:{partition}:iam::{account}:role{path}{id}",
    "AWS::IAM::User": "arn:{partition}:iam::{account}:user{path}{id}",
    "AWS::KMS::Key": "arn:{partition}:kms:{region}:{account}:key/{id}",
    "AWS::Lambda::Function": "arn:{partition}:lambda:{region}:{account}:function:{id}",
}
"""Resource type → its ARN (Service Authorization Reference)."""


@dataclass(frozen=True)
class Stack:
    """``physical``: logical id → physical id; ``parameters``: parameter → value, ``import:Export`` → value too; ``template``: as deployed."""

    arn: str
    physical: Mapping[str, str]
    parameters: Mapping[str, str]
    template: Mapping[str, Any]

    def resources(self, kind: str) -> Iterator[tuple[str, str, Any]]:
        """(logical id, physical id, resolved properties) of a type, of what is deployed."""
        for logical, resource in self.template.get("Resources", {}).items():
            if resource.get("Type") == kind and logical in self.physical:
                yield logical, self.physical[logical], resolve(resource.get("Properties", {}), self.names)

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]

    def names(self, name: str) -> str | None:
        """For ``resolve``."""
        partition, _, region, account = self.arn.split(":")[1:5]
        pseudo = {"AWS::Partition": partition, "AWS::Region": region, "AWS::AccountId": account, "AWS::StackId": self.arn}
        pseudo |= {
            "AWS::StackName": self.arn.split("/")[1],
            "AWS::URLSuffix": "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com",
        }
        logical, _, attribute = name.partition(".")
        if attribute == "Arn" and logical in self.physical:
            resource = self.template["Resources"].get(logical, {})
            form = _ARNS.get(resource.get("Type"))
            path = (resource.get("Properties") or {}).get("Path", "/")
            found = {"partition": partition, "region": region, "account": account, "path": path, "id": self.physical[logical]}
            return form.format(**found) if form else None
        return pseudo.get(name) or self.parameters.get(name) or self.physical.get(name)


def read_stack(cloudformation: Any, name: str) -> Stack:
    """Raises botocore's errors."""
    described = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    parameters = {
        one["ParameterKey"]: str(one.get("ResolvedValue") or one.get("ParameterValue")) for one in described.get("Parameters", [])
    }
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
    physical = {
        one["LogicalResourceId"]: one["PhysicalResourceId"]
        for page in pages
        for one in page["StackResourceSummaries"]
        if one.get("PhysicalResourceId")
    }
    template = _body(cloudformation.get_template(StackName=name)["TemplateBody"])
    if "Fn::ImportValue" in json.dumps(template):
        exports = cloudformation.get_paginator("list_exports").paginate()
        parameters |= {f"import:{one['Name']}": one["Value"] for page in exports for one in page["Exports"]}
    return Stack(described["StackId"], physical, parameters, template)


def _body(body: Any) -> Mapping[str, Any]:
    """CDK's templates are JSON; botocore gives them as objects already."""
    value = json.loads(body) if isinstance(body, str) else body
    return value if isinstance(value, dict) else {}
