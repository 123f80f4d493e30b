"""AttestationVerifier: a function that verifies anybody's attestation document, for other teams' services and for Step Functions."""

from __future__ import annotations

import base64

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from nitrokit.cdk.monitor_function import FunctionOptions, MonitorFunction
from nitrokit.cdk.monitor_settings import MonitorSettings
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor


class AttestationVerifier(Construct):
    """Document, nonce and reference values in, verdict with every check out (docs/monitoring.md; schema in ``nitrokit.handlers``). ``url`` is authorised by IAM: ``grant_verify`` first.

    - ``settings``: the locks that a request may name instead of sending its own. Default: none.
    - ``trust_anchor``: default AWS's root G1.
    - ``concurrency``: how many requests are answered at once; default 10. It is reserved, so the account's limit must have 100 more (AWS Lambda Developer Guide "Reserved concurrency").
    - ``options``: runtime, architecture, log retention; default Python 3.13 on x86_64, a year.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: MonitorSettings | None = None,
        trust_anchor: TrustAnchor = AWS_NITRO_ROOT_G1,
        concurrency: int = 10,
        options: FunctionOptions | None = None,
    ) -> None:
        super().__init__(scope, id)
        environment = trust_environment(trust_anchor)
        if settings is not None:
            environment |= {"SETTINGS_PATH": settings.path, "SETTINGS_VERSION": settings.version}
        made = MonitorFunction(
            self,
            "Verify",
            name="verify_attestation",
            description="Verifies and appraises attestation documents",
            environment=environment,
            options=options or FunctionOptions(),
            timeout=Duration.seconds(10),
            concurrency=concurrency,
            memory_size=1024,  # the CPU comes with it, and callers wait
        )
        if settings is not None:
            settings.allow_reading(made)
        self.function: lambda_.IFunction = made.function
        self.alarms = made.alarms
        self._url: lambda_.FunctionUrl | None = None

    @property
    def url(self) -> lambda_.FunctionUrl:
        """Its Function URL, made when it is first asked for: some Regions have none (AWS Lambda Developer Guide "Creating and managing Lambda function URLs")."""
        if self._url is None:
            self._url = self.function.add_function_url(auth_type=lambda_.FunctionUrlAuthType.AWS_IAM)
        return self._url

    def grant_verify(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody verify documents, by direct invocation and by the URL, if there is one."""
        return self.function.grant_invoke(grantee).combine(self.function.grant_invoke_url(grantee))

    @classmethod
    def from_function_arn(cls, scope: Construct, id: str, function_arn: str) -> ImportedVerifier:
        """The verifier of another stack, by the ARN of its function."""
        return ImportedVerifier(scope, id, function_arn)


class ImportedVerifier(Construct):
    """What ``AttestationVerifier.from_function_arn`` gives."""

    def __init__(self, scope: Construct, id: str, function_arn: str) -> None:
        super().__init__(scope, id)
        self.function = lambda_.Function.from_function_arn(self, "Function", function_arn)

    def grant_verify(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody of this account verify documents by direct invocation and by the URL; its own stack must allow other accounts."""
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"],
            resource_arns=[self.function.function_arn, f"{self.function.function_arn}:*"],
        )


def trust_environment(trust_anchor: TrustAnchor) -> dict[str, str]:
    """What tells a function of another root than AWS's."""
    return {} if trust_anchor.der == AWS_NITRO_ROOT_G1.der else {"TRUST_ANCHOR": base64.b64encode(trust_anchor.der).decode()}
