"""Scenarios: deployments as people write them, each synthesised once, under cdk.json's context and nitrokit's own rules."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms

from nitrokit.cdk.alarm_topic import AlarmTopic
from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_dashboard import EnclaveDashboard
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.fleet_admission import FleetAdmission
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.manifest import Egress
from nitrokit.core.measurements import Measurements, digest
from nitrokit.core.reference_values import ReferenceValues, RetiringSet

ROOT = Path(__file__).parents[2]
OWNER = "arn:aws:iam::123456789012:role/owner"
VOLUME_KEY = "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012"
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
    """Every prop given."""
    egress = (Egress("kms.us-east-1.amazonaws.com", 443, 8001),)
    image = eif.image(stack, cpu_count=2, memory_mib=512, egress=egress)
    network = EnclaveNetwork(stack, "Network", max_azs=2, cidr="10.7.0.0/16", services=["monitoring"])
    host = EnclaveHost(
        stack,
        "Host",
        images=[image],
        network=network,
        instance_type=ec2.InstanceType("r6i.xlarge"),
        machine_image=ec2.MachineImage.latest_amazon_linux2023(),
        role_name="parent",
        volume_size=cdk.Size.gibibytes(40),
        volume_key=kms.Key.from_key_arn(stack, "VolumeKey", VOLUME_KEY),
    )
    EnclaveKey(stack, "Key", images=[image], host_role=host.role, attest_host_role=True, data_owners=[OWNER], description="all values")
    bootstrap = EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image, timeout=cdk.Duration.minutes(20), cid=20)
    topic = AlarmTopic(stack, "Alarms", email="ops@example.com")
    monitor = AttestationMonitor(
        stack,
        "Monitor",
        bootstraps=[bootstrap],
        schedule=cdk.Duration.minutes(5),
        alarm_topic=topic,
        topic=topic,
        ledger=AttestationLedger(stack, "Ledger"),
        security_hub=True,
        runtime=cdk.aws_lambda.Runtime.PYTHON_3_13,
        architecture=cdk.aws_lambda.Architecture.ARM_64,
    )
    EnclaveDashboard(stack, "Dashboard", monitors=[monitor], bootstraps=[bootstrap], parents=[host], period=cdk.Duration.minutes(1))


def fleet(stack, eif):
    """Several types, admission by attestation, a load balancer."""
    image = eif.image(stack)
    kinds = [ec2.InstanceType("c6i.xlarge"), ec2.InstanceType("m6i.xlarge")]
    parents = EnclaveFleet(stack, "Fleet", images=[image], instance_types=kinds, min_capacity=3)
    parents.add_load_balancer(port=443, parent_port=9443)
    EnclaveKey(stack, "Key", images=[image], host_role=parents.role)
    bootstrap = EnclaveBootstrap(stack, "Bootstrap", parent=parents, image=image)
    admission = FleetAdmission(stack, "Admission", fleet=parents, bootstraps=[bootstrap])
    monitor = AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap])
    alarms = [*admission.alarms, parents.capacity_alarm]
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


SCENARIOS = {one.__name__: one for one in (defaults, all_values, fleet, two_images, rollover)}


@dataclass(frozen=True)
class Scenario:
    name: str
    app: cdk.App
    path: Path

    @property
    def template(self):
        return json.loads(self.path.read_text())


@pytest.fixture(scope="session")
def synthesise(tmp_path_factory):
    """Synthesis fails where CloudFormation's validation or one of nitrokit's rules finds an error."""

    def make(build, name="S"):
        folder = tmp_path_factory.mktemp("template")
        app = cdk.App(outdir=str(folder / "out"), context=json.loads((ROOT / "cdk.json").read_text())["context"])
        cdk.Validations.of(app).add_plugins(NitrokitChecks())
        path = folder / "small.eif"
        with path.open("w+b") as file:
            write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
        build(cdk.Stack(app, name), Eif(path, read_eif(path.read_bytes()).measurements))
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
