"""Values that only the deployment knows: every prop takes them, or says plainly that it does not."""

import inspect
import re
from functools import wraps
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

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

from .conftest import measured

TEXT: Any = cdk.Fn.import_value("text")
NUMBER: Any = cdk.Token.as_number(cdk.Fn.import_value("number"))
LIST = cdk.Token.as_list(cdk.Fn.import_value("list"))
SECONDS = cdk.Duration.seconds(NUMBER)


def _image(stack, **changes):
    bucket = s3.Bucket.from_bucket_name(stack, "Bucket", TEXT)
    given: dict[str, Any] = {
        "name": "hello",
        "measurements": measured("app"),
        "memory_mib": 512,
        "eif": EifObject(bucket, TEXT, TEXT, TEXT),
        **changes,
    }
    return EnclaveImage.from_measurements(stack, "Image", **given)


def _bootstrap(stack, **changes):
    return EnclaveBootstrap(stack, "Run", parent=EnclaveHost(stack, "Host"), image=_image(stack), **changes)


def _everything(stack):
    """Tokens wherever they are taken."""
    image = _image(stack)
    volume: dict[str, Any] = {"volume_size": cdk.Size.gibibytes(NUMBER), "volume_key": kms.Key.from_key_arn(stack, "VolumeKey", TEXT)}
    host = EnclaveHost(stack, "Host", role_name=TEXT, instance_type=ec2.InstanceType(TEXT), **volume)
    fleet = EnclaveFleet(stack, "Fleet", role_name=cdk.Fn.import_value("other"), min_capacity=NUMBER, max_capacity=NUMBER, **volume)
    fleet.add_load_balancer(port=NUMBER, parent_port=NUMBER)
    key = EnclaveKey(
        stack,
        "Key",
        images=[image],
        host_role=iam.Role.from_role_arn(stack, "Role", TEXT),
        attest_host_role=True,
        data_owners=[TEXT],
        sealed=False,
        administrator_arn=TEXT,
        description=TEXT,
    )
    owner = iam.Role(stack, "Owner", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    EnclaveKey.from_key_arn(stack, "Theirs", TEXT).grants.encrypt(owner)
    log_group = logs.LogGroup.from_log_group_name(stack, "Group", TEXT)
    output = s3.Bucket.from_bucket_name(stack, "Output", TEXT)
    runs = [
        EnclaveBootstrap(stack, f"Run{one.node.id}", parent=one, image=image, log_group=log_group, output_bucket=output)
        for one in (
            host,
            fleet,
            EnclaveHost.from_instance_attributes(stack, "Named", instance_id=TEXT, role=owner),
            EnclaveFleet.from_tag(stack, "Tagged", tag_value=TEXT, role=owner),
        )
    ]
    FleetAdmission(stack, "Admission", fleet=fleet, bootstraps=[runs[1]], concurrency=NUMBER)
    AttestationMonitor(stack, "Monitor", bootstraps=runs[:1], keys=[key])
    AttestationVerifier(stack, "Verifier", concurrency=NUMBER)
    AlarmTopic(stack, "Alarms", email=TEXT)
    AwaitAttestation(stack, "Await", check=lambda_.Function.from_function_arn(stack, "Check", TEXT), concurrency=NUMBER)
    MeasurementGate(stack, "Gate", images=TEXT, install=[TEXT], synth=TEXT, environment={"A": TEXT})


REFUSED = {
    ("EnclaveImage", "name"): lambda stack: _image(stack, name=TEXT),
    ("EnclaveImage", "arch"): lambda stack: _image(stack, arch=TEXT),
    ("EnclaveImage", "cpu_count"): lambda stack: _image(stack, cpu_count=NUMBER),
    ("EnclaveImage", "memory_mib"): lambda stack: _image(stack, memory_mib=NUMBER),
    ("EnclaveKey", "data_owners"): lambda stack: EnclaveKey(stack, "Key", data_owners=LIST),
    ("EnclaveNetwork", "max_azs"): lambda stack: EnclaveNetwork(stack, "Network", max_azs=NUMBER),
    ("EnclaveNetwork", "cidr"): lambda stack: EnclaveNetwork(stack, "Network", cidr=TEXT),
    ("EnclaveNetwork", "services"): lambda stack: EnclaveNetwork(stack, "Network", services=["ssm", TEXT]),
    ("EnclaveFleet", "min_capacity"): lambda stack: EnclaveFleet(stack, "Fleet", min_capacity=NUMBER),
    ("FleetAdmission", "timeout"): lambda stack: FleetAdmission(
        stack, "Admission", fleet=EnclaveFleet(stack, "Fleet"), bootstraps=[], timeout=SECONDS
    ),
    ("AwaitAttestation", "wait"): lambda stack: AwaitAttestation(
        stack, "Await", check=lambda_.Function.from_function_arn(stack, "Check", TEXT), wait=SECONDS
    ),
    ("EnclaveBootstrap", "timeout"): lambda stack: _bootstrap(stack, timeout=SECONDS),
    ("EnclaveBootstrap", "healthy_within"): lambda stack: _bootstrap(stack, healthy_within=SECONDS),
    ("EnclaveBootstrap", "cid"): lambda stack: _bootstrap(stack, cid=NUMBER),
    ("EnclaveDashboard", "period"): lambda stack: EnclaveDashboard(stack, "Dashboard", period=SECONDS),
    ("AttestationMonitor", "schedule"): lambda stack: AttestationMonitor(stack, "M", bootstraps=[_bootstrap(stack)], schedule=SECONDS),
    ("AttestationLedger", "schedule"): lambda stack: AttestationLedger(stack, "Ledger", schedule=SECONDS),
    ("AttestationLedger", "retention"): lambda stack: AttestationLedger(stack, "Ledger", retention=SECONDS),
    ("MeasurementGate", "health_timeout"): lambda stack: MeasurementGate(stack, "Gate", health_timeout=SECONDS),
}


@pytest.mark.parametrize("prop", REFUSED, ids=".".join)
def test_what_synthesis_computes_with_is_asked_for_plainly(prop, new_stack):
    with pytest.raises(ValueError, match=rf"^{prop[1]} is a token, known at deployment alone; expected a plain value"):
        REFUSED[prop](new_stack())


def test_every_other_prop_takes_tokens(new_stack, published, monkeypatch):
    given: set[tuple[str, str]] = set()

    def noting(name, original):
        @wraps(original)
        def init(self, scope, id, **props):
            given.update((name, prop) for prop in props)
            original(self, scope, id, **props)

        return init

    for name, construct in published.items():
        monkeypatch.setattr(construct, "__init__", noting(name, construct.__init__))
    stack = new_stack()
    _everything(stack)
    stack.node.root.synth()
    plain = {
        (name, prop.name)
        for name, construct in published.items()
        for prop in inspect.signature(construct.__init__).parameters.values()
        if prop.name not in ("self", "scope", "id") and re.search(r"\b(str|int|Duration|Size)\b", str(prop.annotation))
    }
    assert plain - given - set(REFUSED) == set()
