"""The reference deployment: one image, its key, one host, its bootstrap, its monitor. Composition only; settings come from context (docs/deploy.md)."""

import sys
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_lambda as lambda_

from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor
from nitrokit.errors import NitrokitError, UsageError


class EnclaveStack(cdk.Stack):
    def __init__(self, scope: cdk.App, id: str) -> None:
        super().__init__(scope, id)
        owner = self.node.try_get_context("nitrokit:dataOwner")
        runtime = lambda_.Runtime(self.node.try_get_context("nitrokit:lambdaRuntime") or "python3.13", lambda_.RuntimeFamily.PYTHON)
        anchor = _trust_anchor(self.node.try_get_context("nitrokit:trustAnchor"))

        image = EnclaveImage.from_directory(self, "Image", self.node.try_get_context("nitrokit:image") or "enclave_images/hello")
        host = EnclaveHost(self, "Host")
        key = EnclaveKey(self, "Key", images=[image], host_role=host.role, data_owners=[owner] if owner else [])
        bootstrap = EnclaveBootstrap(self, "Bootstrap", parent=host, image=image)
        monitor = AttestationMonitor(self, "Monitor", bootstraps=[bootstrap], trust_anchor=anchor, runtime=runtime)

        cdk.CfnOutput(self, "KeyArn", value=key.key_arn)
        cdk.CfnOutput(self, "InstanceId", value=host.instance_id)
        cdk.CfnOutput(self, "HostRoleArn", value=host.role.role_arn)
        cdk.CfnOutput(self, "BootstrapDocumentName", value=bootstrap.document.ref)
        cdk.CfnOutput(self, "AttestDocumentName", value=bootstrap.attest_document.ref)
        cdk.CfnOutput(self, "MonitorFunctionName", value=monitor.function.function_name)


def _trust_anchor(path: str | None) -> TrustAnchor:
    try:
        return TrustAnchor(Path(path).name, Path(path).read_bytes()) if path else AWS_NITRO_ROOT_G1
    except OSError as error:
        raise UsageError(
            "trust-anchor", "cannot read the trust anchor", got=str(error), do="correct the context nitrokit:trustAnchor"
        ) from error


def main() -> None:
    app = cdk.App()
    try:
        EnclaveStack(app, "NitrokitHello")
        cdk.Validations.of(app).add_plugins(NitrokitChecks())
    except NitrokitError as error:
        sys.exit(f"error: {error}")
    app.synth()


main()
