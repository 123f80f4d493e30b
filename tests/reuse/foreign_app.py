"""A stranger's app: knows the package alone, and uses every construct, over stacks and accounts. Argument: the folder to write to."""

import sys
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_codepipeline_actions as actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_s3 as s3

import nitrokit
from nitrokit.cdk.alarm_topic import AlarmTopic
from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.attestation_verifier import AttestationVerifier
from nitrokit.cdk.await_attestation import AwaitAttestation
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_dashboard import EnclaveDashboard
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EifObject, EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.fleet_admission import FleetAdmission
from nitrokit.cdk.measurement_gate import MeasurementGate
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.measurements import Measurements, digest

OURS = cdk.Environment(account="111111111111", region="eu-west-1")
PARTNER = cdk.Environment(account="222222222222", region="eu-west-1")


def written_eif(folder: Path) -> Path:
    path = folder / "wallet.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"wallet"], metadata={"BuildMetadata": {}})
    return path


class Fleet(cdk.Stack):
    """Two enclaves on each instance of a fleet, in a network of another stack's."""

    def __init__(self, scope: cdk.App, id: str, *, network: EnclaveNetwork, eif: Path) -> None:
        super().__init__(scope, id, env=OURS)
        measurements = read_eif(eif.read_bytes()).measurements
        self.wallet = EnclaveImage.from_eif(self, "Wallet", eif, name="wallet", measurements=measurements)
        bucket = s3.Bucket.from_bucket_name(self, "Images", "images-111111111111")
        audit = Measurements(digest([b"audit"]), measurements.pcr1, digest([b"app"]))
        self.audit = EnclaveImage.from_measurements(
            self, "Audit", name="audit", measurements=audit, memory_mib=512, eif=EifObject(bucket, "audit.eif", "ab" * 32, version="1")
        )
        self.fleet = EnclaveFleet(self, "Fleet", images=[self.wallet, self.audit], network=network, role_name="wallet-parents")
        self.fleet.add_load_balancer(port=443, parent_port=9443)
        bootstraps = [EnclaveBootstrap(self, f"Run{one.name}", parent=self.fleet, image=one) for one in (self.wallet, self.audit)]
        FleetAdmission(self, "Admission", fleet=self.fleet, bootstraps=bootstraps)
        self.monitor = AttestationMonitor(self, "Monitor", bootstraps=bootstraps, ledger=AttestationLedger(self, "Ledger"))
        AttestationVerifier(self, "Verifier")
        AlarmTopic(self, "Alarms").take(self.monitor.alarms)
        EnclaveDashboard(self, "Dashboard", monitors=[self.monitor], bootstraps=bootstraps, parents=[self.fleet])


class Hosts(cdk.Stack):
    """A Graviton host that builds its image from Docker, and one that is somebody else's."""

    def __init__(self, scope: cdk.App, id: str, *, network: EnclaveNetwork, docker: Path) -> None:
        super().__init__(scope, id, env=OURS)
        asset = ecr_assets.DockerImageAsset(self, "Docker", directory=str(docker), platform=ecr_assets.Platform.LINUX_ARM64)
        locked = Measurements(digest([b"docker"]), digest([b"boot"]), digest([b"app"]))
        image = EnclaveImage.from_docker_image(
            self, "Image", asset, name="docker", measurements=locked, memory_mib=2048, arch="aarch64", cpu_count=1
        )
        host = EnclaveHost(self, "Host", images=[image], network=network, instance_type=ec2.InstanceType("m7g.xlarge"))
        theirs = EnclaveHost.from_instance_attributes(self, "Theirs", instance_id="i-0123456789abcdef0", role=host.role)
        EnclaveBootstrap(self, "Run", parent=host, image=image)
        EnclaveBootstrap(self, "RunTheirs", parent=theirs, image=image)


class Keys(cdk.Stack):
    """One key for two images of another stack, on that stack's parents."""

    def __init__(self, scope: cdk.App, id: str, *, fleet: Fleet, env: cdk.Environment) -> None:
        super().__init__(scope, id, env=env)
        self.key = EnclaveKey(self, "Key", images=[fleet.wallet, fleet.audit], host_role=fleet.fleet.role)


class Gate(cdk.Stack):
    """A pipeline that waits for another stack's enclaves."""

    def __init__(self, scope: cdk.App, id: str, *, fleet: Fleet) -> None:
        super().__init__(scope, id, env=OURS)
        source = codepipeline.Artifact("Source")
        pipeline = codepipeline.Pipeline(self, "Pipeline")
        bucket = s3.Bucket(self, "Sources", versioned=True)
        pipeline.add_stage(
            stage_name="Source",
            actions=[actions.S3SourceAction(action_name="Source", bucket=bucket, bucket_key="s.zip", output=source)],
        )
        approve = actions.ManualApprovalAction(action_name="Approve")
        attest = AwaitAttestation(self, "Await", check=fleet.monitor.function).action()
        MeasurementGate(self, "Gate").add_stages(pipeline, source, stack_name="Fleet", deploy=[approve], attest=attest)


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    docker = output / "docker"
    docker.mkdir(exist_ok=True)
    (docker / "Dockerfile").write_text("FROM scratch\n")
    zones = {f"availability-zones:account={env.account}:region={env.region}": ["eu-west-1a", "eu-west-1b"] for env in (OURS, PARTNER)}
    app = cdk.App(outdir=str(output / "cdk.out"), context={**zones, "@aws-cdk/core:validateAgainstDefaultRules": True})
    cdk.Validations.of(app).add_plugins(NitrokitChecks())
    shared = cdk.Stack(app, "Shared", env=OURS)
    network = EnclaveNetwork(shared, "Network", services=["ecr.api", "ecr.dkr"])
    fleet = Fleet(app, "Fleet", network=network, eif=written_eif(output))
    Hosts(app, "Hosts", network=network, docker=docker)
    Gate(app, "Gate", fleet=fleet)
    Keys(app, "Keys", fleet=fleet, env=OURS)
    Keys(app, "PartnersKeys", fleet=fleet, env=PARTNER)
    app.synth()
    print(nitrokit.__file__)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
