"""AttestationMonitor: a Lambda that proves, at any time, which image an enclave runs."""

from __future__ import annotations

import base64
import json

from aws_cdk import Annotations, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from nitrokit.cdk.bundling import bundle
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor

FOREIGN_ANCHOR = "@nitrokit/cdk:foreignTrustAnchor"


class AttestationMonitor(Construct):
    """Asks the enclave of ``bootstrap`` for a fresh document, verifies it and appraises it against the locked measurements.

    - ``trust_anchor``: the root of the documents; default AWS's root G1. Any other gives a warning (``@nitrokit/cdk:foreignTrustAnchor``): it is for local emulation.
    - ``runtime``: default Python 3.13; ``architecture``: default x86_64.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bootstrap: EnclaveBootstrap,
        trust_anchor: TrustAnchor = AWS_NITRO_ROOT_G1,
        runtime: lambda_.Runtime | None = None,
        architecture: lambda_.Architecture | None = None,
    ) -> None:
        super().__init__(scope, id)
        runtime, architecture = runtime or lambda_.Runtime.PYTHON_3_13, architecture or lambda_.Architecture.X86_64
        foreign = trust_anchor.der != AWS_NITRO_ROOT_G1.der
        if foreign:
            Annotations.of(self).add_warning_v2(
                FOREIGN_ANCHOR,
                f"attestation documents are trusted under {trust_anchor.name} (SHA-256 {trust_anchor.sha256}), not AWS's root",
            )
        host, image = bootstrap.host, bootstrap.image
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"), description="Checks attestation")
        log_group = logs.LogGroup(self, "Logs", retention=logs.RetentionDays.ONE_YEAR)
        log_group.grant_write(role)
        environment = {
            "INSTANCE_ID": host.instance_id,
            "ENCLAVE": image.name,
            "DOCUMENT_NAME": bootstrap.attest_document.ref,
            "HOST_ROLE_ARN": host.role.role_arn,
            "MEASUREMENTS": json.dumps([{f"PCR{index}": value.hex() for index, value in image.measurements.pcrs().items()}]),
            **({"TRUST_ANCHOR": base64.b64encode(trust_anchor.der).decode()} if foreign else {}),
        }
        python = runtime.name.removeprefix("python")
        self.function = lambda_.Function(
            self,
            "Function",
            runtime=runtime,
            architecture=architecture,
            handler="index.handler",
            code=lambda_.Code.from_asset(str(bundle("check_enclave", python=python, architecture=architecture.name))),
            role=role,
            log_group=log_group,
            environment=environment,
            timeout=Duration.minutes(1),
            memory_size=256,
            description=f"Attests the enclave {image.name}",
        )
        self._allow(role, bootstrap)

    def _allow(self, role: iam.Role, bootstrap: EnclaveBootstrap) -> None:
        stack = Stack.of(self)
        document = stack.format_arn(service="ssm", resource="document", resource_name=bootstrap.attest_document.ref)
        instance = stack.format_arn(service="ec2", resource="instance", resource_name=bootstrap.host.instance_id)
        role.add_to_policy(iam.PolicyStatement(actions=["ssm:SendCommand"], resources=[document, instance]))
        # This action takes no resource (Service Authorization Reference).
        role.add_to_policy(iam.PolicyStatement(actions=["ssm:GetCommandInvocation"], resources=["*"]))
