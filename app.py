"""The reference deployment: one image, its key, its parents, their bootstrap and monitor. Composition only; settings come from context (docs/deploy.md)."""

from nitrokit.cdk.quick import quick_synthesis

quick_synthesis()

import aws_cdk as cdk

from nitrokit.cdk.alarm_topic import AlarmTopic
from nitrokit.cdk.app_settings import AppSettings, read_settings
from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_dashboard import EnclaveDashboard
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.fleet_admission import FleetAdmission
from nitrokit.cdk.monitor_function import FunctionOptions
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.errors import NitrokitError


class EnclaveStack(cdk.Stack):
    def __init__(self, scope: cdk.App, id: str, settings: AppSettings) -> None:
        super().__init__(scope, id)
        anchor, runtime = settings.trust_anchor, settings.runtime
        image = EnclaveImage.from_directory(self, "Image", settings.image)
        host = None if settings.production else EnclaveHost(self, "Host", images=[image])
        parent = host or EnclaveFleet(self, "Fleet", images=[image], min_capacity=settings.min_capacity)
        key = EnclaveKey(self, "Key", images=[image], host_role=parent.role, data_owners=settings.data_owners)
        bootstrap = EnclaveBootstrap(self, "Bootstrap", parent=parent, image=image)
        ledger = AttestationLedger(self, "Ledger", options=FunctionOptions(runtime)) if settings.production else None
        monitor = AttestationMonitor(
            self, "Monitor", bootstraps=[bootstrap], keys=[key], ledger=ledger, trust_anchor=anchor, runtime=runtime
        )
        if ledger and isinstance(parent, EnclaveFleet):
            admission = FleetAdmission(self, "Admission", fleet=parent, bootstraps=[bootstrap], trust_anchor=anchor, runtime=runtime)
            alarms = [*admission.alarms, *ledger.alarms, parent.capacity_alarm]
            AlarmTopic(self, "Alarms", email=settings.alarm_email).take([*monitor.alarms, *alarms])
            EnclaveDashboard(self, "Dashboard", monitors=[monitor], bootstraps=[bootstrap], parents=[parent], alarms=alarms)
        outputs = {"KeyArn": key.key_arn, "HostRoleArn": parent.role.role_arn, "BootstrapDocumentName": bootstrap.document.ref}
        outputs |= {"AttestDocumentName": bootstrap.attest_document.ref, "MonitorFunctionName": monitor.function.function_name}
        for name, value in {**outputs, **({"InstanceId": host.instance_id} if host else {})}.items():
            cdk.CfnOutput(self, name, value=value)


def main() -> None:
    app = cdk.App()
    try:
        EnclaveStack(app, "NitrokitHello", read_settings(app))
        cdk.Validations.of(app).add_plugins(NitrokitChecks())
    except NitrokitError as error:
        raise SystemExit(f"error: {error}") from None
    app.synth()


main()
