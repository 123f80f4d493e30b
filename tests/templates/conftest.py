"""Scenarios: deployments as people write them, each synthesised once, under cdk.json's context and nitrokit's own rules."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_codepipeline_actions as actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct

from nitrokit.cdk.alarm_topic import AlarmTopic
from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.attestation_verifier import AttestationVerifier
from nitrokit.cdk.await_attestation import AwaitAttestation
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_dashboard import EnclaveDashboard
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.fleet_admission import FleetAdmission
from nitrokit.cdk.measurement_gate import MeasurementGate
from nitrokit.cdk.monitor_function import FunctionOptions
from nitrokit.cdk.monitor_settings import MonitorSettings
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.manifest import Egress
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet

ROOT = Path(__file__).parents[2]
OWNER = "arn:aws:iam::123456789012:role/owner"
VOLUME_KEY = "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012"
ANCHOR = AWS_NITRO_ROOT_G1
FUNCTION: dict[str, Any] = {
    "trust_anchor": ANCHOR,
    "runtime": lambda_.Runtime.PYTHON_3_13,
    "architecture": lambda_.Architecture.ARM_64,
}
OPTIONS: dict[str, Any] = {"options": FunctionOptions(FUNCTION["runtime"], FUNCTION["architecture"], logs.RetentionDays.ONE_MONTH)}
OLD = Measurements(digest([b"old"]), digest([b"boot"]), digest([b"old", b"app"]))


@dataclass(frozen=True)
class Eif:
    path: Path
    lock: Measurements

    def image(self, stack, id="Image", *, name="hello", measurements=None, **options):
        return EnclaveImage.from_eif(stack, id, self.path, name=name, measurements=measurements or self.lock, **options)


def defaults(stack, eif):
    """One image on one host, and nothing said that need not be."""
    image = eif.image(stack)
    host = EnclaveHost(stack, "Host")
    EnclaveKey(stack, "Key", images=[image], host_role=host.role)
    AttestationMonitor(stack, "Monitor", bootstraps=[EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image)])


def all_values(stack, eif):
    """Every prop of every construct given (test_templates.py counts them)."""
    egress = (Egress("kms.us-east-1.amazonaws.com", 443, 8001),)
    image = eif.image(stack, cpu_count=2, memory_mib=512, egress=egress)
    volume_key = kms.Key.from_key_arn(stack, "VolumeKey", VOLUME_KEY)
    network = EnclaveNetwork(stack, "Network", max_azs=2, cidr="10.7.0.0/16", services=["monitoring"])
    parent: dict[str, Any] = {
        "images": [image],
        "network": network,
        "machine_image": ec2.MachineImage.latest_amazon_linux2023(),
        "volume_size": cdk.Size.gibibytes(40),
        "volume_key": volume_key,
    }
    kind = ec2.InstanceType("r6i.xlarge")
    host = EnclaveHost(stack, "Host", instance_type=kind, role_name="parent", **parent)
    fleet = EnclaveFleet(stack, "Fleet", instance_types=[kind], min_capacity=1, max_capacity=3, role_name="parents", **parent)
    key = _all_of_a_key(stack, image, host)
    theirs = [s3.Bucket.from_bucket_name(stack, name, f"theirs-{name}") for name in ("output", "diagnostics", "access")]
    bootstrap: dict[str, Any] = {
        "timeout": cdk.Duration.minutes(20),
        "cid": 20,
        "healthy_within": cdk.Duration.minutes(1),
        "output_bucket": theirs[0],
    }
    bootstrap |= {"log_group": logs.LogGroup(stack, "Logs", retention=logs.RetentionDays.ONE_MONTH), "diagnostics_bucket": theirs[1]}
    on_host = EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image, **bootstrap)
    on_fleet = EnclaveBootstrap(stack, "FleetBootstrap", parent=fleet, image=image, **bootstrap)
    admission = FleetAdmission(
        stack, "Admission", fleet=fleet, bootstraps=[on_fleet], timeout=cdk.Duration.minutes(30), concurrency=5, **FUNCTION
    )
    monitor = _all_of_a_monitor(stack, on_host, key, theirs[2])
    verifier = AttestationVerifier(
        stack, "Verifier", settings=MonitorSettings(stack, "Locks", bootstraps=[on_host]), concurrency=3, **OPTIONS, trust_anchor=ANCHOR
    )
    cdk.CfnOutput(stack, "Url", value=verifier.url.url)
    EnclaveDashboard(
        stack,
        "Dashboard",
        monitors=[monitor],
        bootstraps=[on_host],
        parents=[host, fleet],
        alarms=admission.alarms,
        period=cdk.Duration.minutes(1),
    )


def _all_of_a_key(stack, image, host):
    open_key: dict[str, Any] = {"sealed": False, "administrator_arn": "arn:aws:iam::123456789012:role/administrator", "multi_region": False}
    of_image: dict[str, Any] = {"images": [image], "host_role": host.role, "attest_host_role": True, "data_owners": [OWNER]}
    return EnclaveKey(stack, "Key", description="all values", **of_image, **open_key)


def _all_of_a_monitor(stack, bootstrap, key, access_logs):
    topic = AlarmTopic(stack, "Alarms", email="ops@example.com")
    evidence: dict[str, Any] = {
        "schedule": cdk.Duration.hours(2),
        "retention": cdk.Duration.days(30),
        "compliance": True,
        "access_logs": access_logs,
    }
    restorer = iam.Role.from_role_arn(stack, "Restorer", "arn:aws:iam::123456789012:role/administrator")
    watched: dict[str, Any] = {"keys": [key], "ledger": AttestationLedger(stack, "Ledger", **evidence, **OPTIONS)}
    told: dict[str, Any] = {"alarm_topic": topic, "topic": topic, "security_hub": True, "schedule": cdk.Duration.minutes(5)}
    return AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap], restore=True, restore_role=restorer, **watched, **told, **FUNCTION)


def pipeline(stack, eif):
    """The gate in CodePipeline, and a Lambda that waits for attested health. ``Theirs``: what is the pipeline's owner's."""
    theirs = Construct(stack, "Theirs")
    bucket = s3.Bucket(theirs, "Source", versioned=True, encryption=s3.BucketEncryption.S3_MANAGED, enforce_ssl=True)
    source, assembly = codepipeline.Artifact("Source"), codepipeline.Artifact("Assembly")
    whole = codepipeline.Pipeline(theirs, "Pipeline", pipeline_type=codepipeline.PipelineType.V2, artifact_bucket=bucket)
    fetch = actions.S3SourceAction(action_name="Source", bucket=bucket, bucket_key="s.zip", output=source)
    whole.add_stage(stage_name="Source", actions=[fetch])
    gate = MeasurementGate(
        stack,
        "Gate",
        images="images",
        install=["pip install nitrokit"],
        synth="cdk synth",
        health_timeout=cdk.Duration.minutes(5),
        build_image=codebuild.LinuxBuildImage.STANDARD_7_0,
        environment={"NITROKIT_BLOBS": "blobs"},
    )
    check = lambda_.Function.from_function_name(stack, "Check", "check-enclaves")
    awaited = AwaitAttestation(
        stack,
        "Await",
        check=check,
        wait=cdk.Duration.hours(1),
        concurrency=2,
        runtime=FUNCTION["runtime"],
        architecture=FUNCTION["architecture"],
    )
    deploy = actions.CloudFormationCreateUpdateStackAction(
        action_name="Deploy", stack_name="Hello", template_path=assembly.at_path("Hello.template.json"), admin_permissions=False
    )
    gate.add_stages(whole, source, stack_name="Hello", deploy=[deploy], assembly=assembly, attest=awaited.action(), retire=True)


def fleet(stack, eif):
    """Several types, admission by attestation, a load balancer, the ledger."""
    image = eif.image(stack)
    kinds = [ec2.InstanceType("c6i.xlarge"), ec2.InstanceType("m6i.xlarge")]
    parents = EnclaveFleet(stack, "Fleet", images=[image], instance_types=kinds, min_capacity=3)
    parents.add_load_balancer(port=443, parent_port=9443)
    EnclaveKey(stack, "Key", images=[image], host_role=parents.role)
    bootstrap = EnclaveBootstrap(stack, "Bootstrap", parent=parents, image=image)
    admission = FleetAdmission(stack, "Admission", fleet=parents, bootstraps=[bootstrap])
    ledger = AttestationLedger(stack, "Ledger")
    monitor = AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap], ledger=ledger)
    alarms = [*admission.alarms, *ledger.alarms, parents.capacity_alarm]
    AlarmTopic(stack, "Alarms").take([*alarms, *monitor.alarms])
    EnclaveDashboard(stack, "Dashboard", monitors=[monitor], bootstraps=[bootstrap], parents=[parents], alarms=alarms)


def two_images(stack, eif):
    """Two enclaves on one host, one key for both."""
    host = EnclaveHost(stack, "Host")
    images = [eif.image(stack, f"{name.title()}Image", name=name) for name in ("wallet", "audit")]
    EnclaveKey(stack, "Key", images=images, host_role=host.role)
    bootstraps = [EnclaveBootstrap(stack, f"Run{image.name}", parent=host, image=image) for image in images]
    AttestationMonitor(stack, "Monitor", bootstraps=bootstraps)


def rollover(stack, eif):
    """An old set is accepted beside the current one until its date."""
    lock = ReferenceValues(eif.lock, (RetiringSet(OLD, datetime(2036, 1, 1, tzinfo=UTC)),))
    image = eif.image(stack, measurements=lock)
    host = EnclaveHost(stack, "Host")
    EnclaveKey(stack, "Key", images=[image], host_role=host.role)
    AttestationMonitor(stack, "Monitor", bootstraps=[EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image)])


SCENARIOS = {one.__name__: one for one in (defaults, all_values, fleet, two_images, rollover, pipeline)}


@dataclass(frozen=True)
class Scenario:
    name: str
    app: cdk.App
    path: Path

    @property
    def template(self):
        return json.loads(self.path.read_text())


@pytest.fixture(scope="session")
def eif(tmp_path_factory):
    path = tmp_path_factory.mktemp("eif") / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    return Eif(path, read_eif(path.read_bytes()).measurements)


@pytest.fixture(scope="session")
def synthesise(tmp_path_factory, eif):
    """Synthesis fails where CloudFormation's validation or one of nitrokit's rules finds an error."""

    def make(build, name="S"):
        folder = tmp_path_factory.mktemp("template")
        app = cdk.App(outdir=str(folder / "out"), context=json.loads((ROOT / "cdk.json").read_text())["context"])
        cdk.Validations.of(app).add_plugins(NitrokitChecks())
        stack = cdk.Stack(app, name)
        build(stack, eif)
        cdk.Tags.of(stack).add("team", "platform")
        app.synth()
        return Scenario(build.__name__, app, folder / "out" / f"{name}.template.json")

    return make


@pytest.fixture(scope="session")
def scenarios(synthesise):
    made: dict[str, Scenario] = {}

    def find(name):
        if name not in made:
            made[name] = synthesise(SCENARIOS[name])
        return made[name]

    return find


@pytest.fixture(params=sorted(SCENARIOS))
def scenario(request, scenarios):
    return scenarios(request.param)
