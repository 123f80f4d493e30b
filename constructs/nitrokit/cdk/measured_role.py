"""PCR3: the measurement of a parent's role, at synthesis where its ARN is known, else at deployment."""

from __future__ import annotations

from aws_cdk import Acknowledgment, CustomResource, Duration, Stack, Token, Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk.region_info import RegionInfo
from constructs import Construct

from nitrokit.cdk.app_settings import lambda_runtime
from nitrokit.cdk.bundling import lambda_folder
from nitrokit.core.key_policy import PolicyError
from nitrokit.core.measurements import pcr3

_FUNCTION = "NitrokitMeasureRole"
_PATIENCE = Duration.minutes(5)
"""With a function that cannot answer; CloudFormation's own is an hour, and Lambda's two retries take three minutes."""


def pcr3_of(scope: Construct, grantee: iam.IGrantable) -> str:
    """PCR3 in hex, or a token of it: 96 digits either way. Raises PolicyError for what is not a role or has a path, MeasurementsError for another ARN."""
    role = grantee.grant_principal
    arn = getattr(role, "role_arn", None) or getattr(role, "arn", None)
    if arn is None or (Token.is_unresolved(arn) and not hasattr(role, "role_arn")):
        raise PolicyError("not-a-role", "PCR3 is the measurement of a role's ARN", got=type(grantee).__name__, expected="a role")
    known = _known_arn(role, arn)
    measured = None if known is None else pcr3(known)
    path = _path(role, known)
    if path != "/":
        raise PolicyError(
            "role-path",
            "whether AWS measures a role's path is not documented, so PCR3 of this role is not known",
            got=path,
            expected="a role without a path",
            do="take a role without a path, or leave attest_host_role out",
        )
    return _measured_at_deployment(scope, arn) if measured is None else measured.hex()


def _path(role: iam.IPrincipal, known: str | None) -> str:
    """The role's path, where anything tells it; else "/", and the function that measures the role looks again."""
    if known is not None:
        return known.partition(":role")[2].rpartition("/")[0] + "/"
    resource = role.node.default_child if isinstance(role, iam.Role) else None
    path = resource.path if isinstance(resource, iam.CfnRole) else None
    return "/" if path is None or Token.is_unresolved(path) else path


def _known_arn(role: iam.IPrincipal, arn: str) -> str | None:
    """The ARN where synthesis can tell it: given, or from the role's explicit name in a stack whose account and Region are."""
    if not Token.is_unresolved(arn):
        return arn
    resource = role.node.default_child if isinstance(role, iam.Role) else None
    if not isinstance(resource, iam.CfnRole) or resource.role_name is None or Token.is_unresolved(resource.role_name):
        return None
    stack = Stack.of(resource)
    partition = None if Token.is_unresolved(stack.region) else RegionInfo.get(stack.region).partition
    if partition is None or Token.is_unresolved(stack.account) or Token.is_unresolved(resource.path or "/"):
        return None
    return f"arn:{partition}:iam::{stack.account}:role{resource.path or '/'}{resource.role_name}"


def _measured_at_deployment(scope: Construct, arn: str) -> str:
    """CloudFormation has no hash function: a Lambda of a dozen lines computes it."""
    stack = Stack.of(scope)
    number = sum(child.node.id.startswith("Pcr3") for child in scope.node.children)
    resource = CustomResource(
        scope,
        f"Pcr3{number or ''}",
        service_token=_function(stack).function_arn,
        resource_type="Custom::RolePcr3",
        properties={"RoleArn": arn},
        service_timeout=_PATIENCE,
    )
    return resource.get_att_string("Pcr3")


def _function(stack: Stack) -> lambda_.IFunction:
    """One in each stack."""
    found = stack.node.try_find_child(_FUNCTION)
    if isinstance(found, lambda_.Function):
        return found
    scope = Construct(stack, f"{_FUNCTION}Parts")
    log_group = logs.LogGroup(scope, "Logs", retention=logs.RetentionDays.ONE_YEAR)
    role = iam.Role(scope, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"), description="Measures roles' ARNs (PCR3)")
    log_group.grant_write(role)
    function = lambda_.Function(
        stack,
        _FUNCTION,
        runtime=lambda_runtime(stack),
        handler="index.handler",
        code=lambda_.Code.from_inline((lambda_folder("measure_role") / "index.py").read_text()),
        role=role,
        log_group=log_group,
        timeout=Duration.minutes(1),
        description="PCR3: SHA-384 of a role's ARN, for key policies",
    )
    reason = "a dozen lines of the standard library that run when a deployment changes a role"
    Validations.of(function).acknowledge(Acknowledgment(id="AwsSolutions-L1", reason=reason))
    return function
