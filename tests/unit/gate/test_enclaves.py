"""Running enclaves and their hosts: real documents of an emulated NSM, documents that AWS's hypervisors signed, and hosts that lie."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, ChainCache, parse_document
from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.measurements import Measurements
from nitrokit.core.nonces import enclave_nonce
from nitrokit.core.nsm import NsmClient
from nitrokit.core.reference_values import ReferenceValues, RetiringSet
from nitrokit.emulation.nitro.nsm import EmulatedNsm
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.gate.access import access_policy
from nitrokit.gate.enclaves import Expected, Judge
from nitrokit.gate.fleets import enclaves_of
from nitrokit.gate.formats import FORMATS
from nitrokit.gate.hosts import compare_host
from nitrokit.gate.report import Outcome, Place
from nitrokit.gate.run import Plan, run_gate
from nitrokit.gate.stack import Stack
from nitrokit.handlers.hosts import Answer, Output

from .conftest import FOREIGN, HOST, NEW, NOW, OLD, locked, rules

ONE, OTHER = "i-0123456789abcdef0", "i-0fedcba9876543210"
NONCE = bytes(range(32))


def _document(pki, *, instance=ONE, nonce=NONCE, measurements=NEW, role=HOST, debug=False):
    module_id = f"{instance}-enc0123456789abcde"
    nsm = EmulatedNsm(module_id=module_id, measurements=measurements, role_arn=role, debug=debug, pki=pki, now=lambda: datetime.now(UTC))
    return NsmClient(nsm.answer).attestation(nonce=nonce)


def _judge(pki, document, *, image=None, at=None, region="us-east-1", anchor=None):
    judge = Judge(anchor or pki.trust_anchor, ChainCache())
    answer = document if isinstance(document, Answer) else Answer(ONE, NONCE, document)
    expected = Expected(image or locked(), region, HOST)
    (found,) = judge.compare([answer], expected, lambda: at or datetime.now(UTC))
    return found


def test_the_locked_image_agrees_and_its_evidence_is_told(pki):
    found = _judge(pki, _document(pki))
    assert (found.rule_id, found.subject) == ("agrees", f"hello on {ONE}")
    assert found.evidence is not None
    assert found.evidence["module_id"].startswith(ONE)
    assert (found.evidence["region"], len(found.evidence["chain"])) == ("us-east-1", 5)
    assert found.evidence["pcrs"]["0"] == NEW.pcr0.hex()
    json.dumps(found.as_dict())


def test_an_old_set_is_planned_until_its_date_and_drift_after(pki):
    def image(until):
        base = locked()
        return type(base)(base.folder, base.name, ReferenceValues(NEW, (RetiringSet(OLD, until.replace(microsecond=0)),)), {})

    now = datetime.now(UTC)
    planned = _judge(pki, _document(pki, measurements=OLD), image=image(now + timedelta(days=1)))
    assert (planned.rule_id, planned.outcome, planned.until is not None) == ("planned-rollover", Outcome.PLANNED, True)
    assert _judge(pki, _document(pki, measurements=OLD), image=image(now - timedelta(days=1))).rule_id == "set-past-date"
    assert _judge(pki, _document(pki, measurements=OLD)).rule_id == "unknown-set"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"measurements": FOREIGN}, "unknown-set"),
        ({"measurements": Measurements(NEW.pcr0, NEW.pcr1, FOREIGN.pcr2)}, "unknown-set"),
        ({"debug": True}, "debug-enclave"),
        ({"nonce": b"n" * 32}, "replayed"),
        ({"nonce": enclave_nonce(NONCE, OTHER, "hello")}, "replayed"),
        ({"nonce": None}, "replayed"),
        ({"instance": OTHER}, "wrong-parent"),
        ({"role": "arn:aws:iam::123456789012:role/other"}, "wrong-parent"),
        ({"role": None}, "wrong-parent"),
    ],
)  # fmt: skip
def test_what_a_document_can_be_wrong_in(pki, changes, rule):
    found = _judge(pki, _document(pki, **changes))
    assert (found.rule_id, found.outcome) == (rule, Outcome.DRIFT), found.reason
    assert found.evidence is not None, "it is authentic, and told"


def test_every_pcr_that_differs_is_told_with_both_values(pki):
    found = _judge(pki, _document(pki, measurements=FOREIGN))
    assert any(NEW.pcr0.hex() in line and FOREIGN.pcr0.hex() in line for line in found.details)
    assert {line.split()[0] for line in found.details} == {"PCR0", "PCR2"}


@pytest.mark.parametrize(
    ("later", "rule"), [(timedelta(minutes=6), "stale"), (timedelta(hours=4), "stale"), (timedelta(minutes=-5), "stale")]
)
def test_an_old_an_expired_and_a_future_document(pki, later, rule):
    assert _judge(pki, _document(pki), at=datetime.now(UTC) + later).rule_id == rule


def test_another_regions_document(pki):
    abroad = EmulatedPki(lambda: datetime.now(UTC), "eu-west-1")
    assert _judge(abroad, _document(abroad)).rule_id == "wrong-place"
    assert _judge(pki, _document(abroad)).rule_id == "not-authentic", "and no other root counts"


def test_documents_that_aws_signed(pki, vectors):
    seen = set()
    for path in sorted((vectors / "attestation").glob("*.bin")):
        data = path.read_bytes()
        parsed = parse_document(data)
        fresh = _judge(pki, Answer(ONE, parsed.nonce or NONCE, data), at=parsed.timestamp, anchor=AWS_NITRO_ROOT_G1)
        assert fresh.outcome is Outcome.DRIFT, path.name
        image = "unknown-set" if parsed.nonce else "replayed"
        expected = "not-authentic" if parsed.is_tpm else "debug-enclave" if not any(parsed.pcrs[0]) else image
        assert fresh.rule_id == expected, path.name
        expired = _judge(pki, Answer(ONE, parsed.nonce or NONCE, data), anchor=AWS_NITRO_ROOT_G1)
        assert expired.rule_id in ("stale", "not-authentic"), path.name
        seen.add(fresh.rule_id)
    assert seen == {"not-authentic", "debug-enclave", "unknown-set", "replayed"}


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x84" * 4000, b"\xd2\x84\x43\xa1\x01\x26\xa0\x40\x40"])
def test_garbage_is_not_authentic(pki, data):
    assert _judge(pki, data).rule_id == "not-authentic"


def test_invalid_documents_of_others_are_not_authentic(pki, vectors):
    for path in sorted((vectors / "attestation-invalid").glob("*.bin")):
        found = _judge(pki, path.read_bytes(), anchor=AWS_NITRO_ROOT_G1)
        assert found.rule_id in ("not-authentic", "stale"), path.name


def test_no_document_is_unreachable_and_no_pass(pki):
    assert _judge(pki, Answer(ONE, NONCE, reason="no answer in 50 s")).outcome is Outcome.UNREACHABLE


def _host(measurements=NEW, verified='{"image": "/x", "measurements": "as locked"}', name="hello"):
    wanted = {f"PCR{index}": value.hex() for index, value in measurements.pcrs().items()}
    return Output(ONE, json.dumps({"name": name, "measurements": wanted}) + "\n" + verified + "\n")


def test_what_a_host_says_of_its_image():
    assert compare_host(_host(), locked(), NOW).rule_id == "agrees"
    assert compare_host(_host(OLD), locked(NEW, (OLD, 2)), NOW).rule_id == "planned-rollover"
    assert compare_host(_host(OLD), locked(NEW, (OLD, -2)), NOW).rule_id == "set-past-date"
    assert compare_host(_host(OLD), locked(), NOW).rule_id == "host-image"
    drifted = compare_host(_host(verified="nitrokit-agent verify: /x is not the locked image: PCR0 differ [agent/drift]"), locked(), NOW)
    assert (drifted.rule_id, "agent/drift" in drifted.details[0]) == ("host-image", True)


@pytest.mark.parametrize(
    "output",
    [
        Output(ONE, reason="Failed: x"), Output(ONE, ""), Output(ONE, "{}\n{}"), Output(ONE, "[" * 9999), _host(name="other"),
        *(Output(ONE, json.dumps({"name": "hello", "measurements": one}) + "\n{}") for one in (3, {"PCR0": "xx"})),
    ],
)  # fmt: skip
def test_a_host_that_says_nothing_usable_is_unreachable(output):
    assert compare_host(output, locked(), NOW).outcome is Outcome.UNREACHABLE


def _stack():
    def document(step, name="hello"):
        return {
            "Type": "AWS::SSM::Document",
            "Properties": {"Content": {"mainSteps": [{"name": step, "inputs": {"runCommand": [f"python3 /x {step} --enclave {name}"]}}]}},
        }

    template = {"Resources": {
        "Role": {"Type": "AWS::IAM::Role"}, "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [{"Ref": "Role"}]}},
        "Boot": document("install"), "Attest": document("attest"), "Status": document("status"), "Foreign": {"Type": "AWS::SSM::Document", "Properties": {"Content": "{"}},
        "A1": {"Type": "AWS::SSM::Association", "Properties": {"Name": {"Ref": "Boot"}, "Targets": [{"Key": "InstanceIds", "Values": [{"Ref": "I"}]}]}},
        "A2": {"Type": "AWS::SSM::Association", "Properties": {"Name": {"Ref": "Boot"}, "Targets": [{"Key": "tag:fleet", "Values": ["f"]}]}},
        "A3": {"Type": "AWS::SSM::Association", "Properties": {"Name": "AWS-GatherSoftwareInventory", "Targets": [{"Key": "InstanceIds", "Values": ["*"]}]}},
    }}  # fmt: skip
    physical = {
        "Role": "host",
        "Profile": "p",
        "Boot": "b",
        "Attest": "a",
        "Status": "s",
        "Foreign": "f",
        "A1": "1",
        "A2": "2",
        "A3": "3",
        "I": ONE,
    }
    return Stack("arn:aws:cloudformation:us-east-1:123456789012:stack/S/1", physical, {}, template)


def test_a_stacks_enclaves_hosts_documents_and_role_are_found():
    (found,) = enclaves_of(_stack())
    assert (found.name, found.attest, found.status, found.role_arn) == ("hello", "a", "s", HOST)
    assert found.targets == {"InstanceIds": (ONE,), "tag:fleet": ("f",)}


def test_a_document_may_take_the_enclave_as_a_parameter():
    stack = _stack()
    content = stack.template["Resources"]["Attest"]["Properties"]["Content"]
    content["mainSteps"][0]["inputs"]["runCommand"] = ['agent attest --enclave "$SSM_Enclave"']
    content["parameters"] = {"Enclave": {"type": "String", "default": "hello"}}
    (found,) = enclaves_of(stack)
    assert found.attest == "a"


class _Recorded:
    """A client of a cloud, which remembers what it was asked: (service, the method's name)."""

    def __init__(self, cloud, service):
        self._cloud, self._service = cloud, service

    def __getattr__(self, name):
        if name not in ("get_paginator", "exceptions"):
            self._cloud.asked.add((self._service, name))
        return getattr(self._cloud, name)

    def get_paginator(self, name):
        self._cloud.asked.add((self._service, name))
        return self._cloud.get_paginator(name)


class _Cloud:
    """boto3's clients for a stack of two hosts, played at the wire's shape; ``hosts``: instance id → what a document prints there."""

    def __init__(self, stack, hosts, nested=()):
        self.stacks = {"S": stack, **{one.arn: one for one in nested}}
        self.hosts, self.sent, self.asked = hosts, [], set()

    class exceptions:
        class InvalidInstanceId(Exception):
            pass

        class InvocationDoesNotExist(Exception):
            pass

    def __call__(self, service):
        return _Recorded(self, service)

    def get_paginator(self, name):
        def resources(name):
            return [{"LogicalResourceId": key, "PhysicalResourceId": value} for key, value in self.stacks[name].physical.items()]

        pages: dict[str, Callable[..., Any]] = {
            "describe_instances": lambda Filters: {"Reservations": [{"Instances": [{"InstanceId": OTHER}]}]},
            "list_exports": lambda: {"Exports": []},
            "list_stack_resources": lambda StackName: {"StackResourceSummaries": resources(StackName)},
        }
        return type("Pages", (), {"paginate": staticmethod(lambda **asked: [pages[name](**asked)])})

    def describe_stacks(self, StackName):
        return {"Stacks": [{"StackId": self.stacks[StackName].arn}]}

    def get_template(self, StackName):
        return {"TemplateBody": json.dumps(self.stacks[StackName].template)}

    def send_command(self, *, InstanceIds, DocumentName, Parameters, **_):
        self.sent.append((DocumentName, tuple(InstanceIds)))
        self.parameters = Parameters
        return {"Command": {"CommandId": DocumentName}}

    def get_command_invocation(self, *, CommandId, InstanceId):
        stdout = self.hosts[InstanceId](CommandId, self.parameters)
        return {
            "Status": "Success" if stdout is not None else "Failed",
            "StandardOutputContent": stdout or "",
            "StandardErrorContent": "no",
        }


def _answering(pki, instance, *, lie=None):
    """A host that answers truly, or with the enclave of ``lie``."""

    def answer(document, parameters):
        if document == "s":
            return _host().stdout
        nonce = enclave_nonce(base64.b64decode(parameters["Nonce"][0]), instance, "hello")
        return json.dumps({"document": base64.b64encode(_document(pki, instance=lie or instance, nonce=nonce)).decode()})

    return answer


def _plan(cloud, pki, **changes):
    arguments = {
        "images": [locked()],
        "stacks": ["S"],
        "client": cloud,
        "trust_anchor": pki.trust_anchor,
        "clock": lambda: datetime.now(UTC),
    }
    return Plan(**{**arguments, **changes})


def test_a_fleet_is_asked_host_by_host_and_the_one_that_lies_is_named(pki):
    from nitrokit.gate.run import DEPLOYED

    places = [one for one in DEPLOYED if one != "key"]
    honest = _Cloud(_stack(), {ONE: _answering(pki, ONE), OTHER: _answering(pki, OTHER)})
    report = run_gate(_plan(honest, pki, places=places))
    assert (report.verdict, report.counts()["agrees"]) == ("PASS", 5)
    assert honest.sent == [("s", (ONE, OTHER)), ("a", (ONE, OTHER))]
    liar = _Cloud(_stack(), {ONE: _answering(pki, ONE), OTHER: _answering(pki, OTHER, lie=ONE)})
    report = run_gate(_plan(liar, pki, places=places))
    assert report.exit_code == 1
    assert [(one.subject, one.rule_id) for one in report.comparisons if one.outcome is Outcome.DRIFT] == [
        (f"hello on {OTHER}", "wrong-parent")
    ]
    (result,) = json.loads("".join(FORMATS["sarif"](report)))["runs"][0]["results"]
    (location,) = result["locations"]
    file = location["physicalLocation"]["artifactLocation"]["uri"]
    assert file == "enclave_images/hello/measurements.json", "code scanning refuses a file with a result that has none"
    silent = _Cloud(_stack(), {ONE: _answering(pki, ONE), OTHER: lambda *_: None})
    assert run_gate(_plan(silent, pki, places=places)).exit_code == 3


def test_what_lies_in_a_nested_stack_is_compared_too(pki):
    nested = Stack("arn:aws:cloudformation:us-east-1:123456789012:stack/S-Nested-1X/2", _stack().physical, {}, _stack().template)
    outer = {"Resources": {"Nested": {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": "x"}}}}
    parent = Stack(_stack().arn, {"Nested": nested.arn}, {}, outer)
    cloud = _Cloud(parent, {ONE: _answering(pki, ONE), OTHER: _answering(pki, OTHER, lie=ONE)}, [nested])
    report = run_gate(_plan(cloud, pki, places=[Place.ENCLAVE]))
    assert rules(report.comparisons) == ["agrees", "agrees", "wrong-parent"]


def test_what_was_asked_for_and_is_not_there_is_no_pass(pki):
    cloud = _Cloud(_stack(), {})
    report = run_gate(_plan(cloud, pki, images=[locked(name="another")]))
    assert rules(report.comparisons) == ["agrees", "unknown-set", "unknown-set", "unreachable"]
    assert "no key" in next(one.reason for one in report.comparisons if one.rule_id == "unreachable")
    without = _stack()
    for name in ("Attest", "Status"):
        del without.template["Resources"][name]
    assert rules(run_gate(_plan(_Cloud(without, {}), pki)).comparisons) == ["agrees", *["unreachable"] * 3]


def test_the_policy_allows_what_is_asked_and_nothing_that_is_not(pki, reader, make_key):
    """What the clients are really asked by a gate over a whole stack, named as IAM does by botocore's models."""
    import boto3
    from botocore import xform_name

    asked = set()
    reader.meta.events.register("before-call.kms.*", lambda model, **_: asked.add(f"kms:{model.name}"))
    key = make_key(build_key_policy(measurements=[NEW], host_role_arn=HOST, account="123456789012"))
    stack = _stack()
    stack.template["Resources"]["Imports"] = {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": {"Fn::ImportValue": "Elsewhere"}}}
    cloud = _Cloud(stack, {ONE: _answering(pki, ONE), OTHER: _answering(pki, OTHER)})
    report = run_gate(_plan(lambda service: reader if service == "kms" else cloud(service), pki, keys=[key]))
    assert {one.outcome for one in report.comparisons if one.place == "key" and key in one.subject} == {Outcome.AGREES}
    for service, method in cloud.asked:
        (operation,) = [
            one for one in boto3.client(service, region_name="us-east-1").meta.service_model.operation_names if xform_name(one) == method
        ]
        asked.add(f"{service}:{operation}")
    assert asked == {action for statement in access_policy()["Statement"] for action in statement["Action"]}


def test_the_gates_policy_allows_every_call_that_it_makes():
    """By moto's evaluator, which is not ours. The local KMS enforces it in test_keys, for keys."""
    from moto.iam.access_control import IAMPolicy, PermissionResult

    policy = IAMPolicy(json.dumps(access_policy("S")))
    arn = "arn:aws:{}:us-east-1:123456789012:{}".format
    stack, key, instance = arn("cloudformation", "stack/S/1"), arn("kms", "key/1"), arn("ec2", "instance/i-1")
    nested, foreign = arn("cloudformation", "stack/S-Nested-1X/2"), arn("cloudformation", "stack/Secret/3")
    documents = {
        name: arn("ssm", f"document/{name}")
        for name in ("S-BootAttestDocument1A-X", "S-BootStatusDocument1-X", "S-BootOperateDocument1-X", "T-AttestDocument1-X")
    }
    attest, status, operate, others = documents.values()

    def decision(action, resource="*"):
        return policy.is_action_permitted(action, resource)

    reading = [("cloudformation:" + one, stack) for one in ("DescribeStacks", "ListStackResources", "GetTemplate")]
    reading += [("cloudformation:GetTemplate", nested)]
    reading += [("kms:" + one, key) for one in ("DescribeKey", "GetKeyPolicy", "ListGrants")]
    reading += [(one, "*") for one in ("cloudformation:ListExports", "ec2:DescribeInstances", "ssm:GetCommandInvocation")]
    for call in [*reading, *(("ssm:SendCommand", one) for one in (attest, status, instance))]:
        assert decision(*call) is PermissionResult.PERMITTED, call
    shell = "arn:aws:ssm:us-east-1::document/AWS-RunShellScript"
    for call in [
        *(("ssm:SendCommand", one) for one in (operate, others, shell)),
        ("kms:Decrypt", key),
        ("kms:PutKeyPolicy", key),
        ("cloudformation:UpdateStack", stack),
        ("cloudformation:GetTemplate", foreign),
    ]:
        assert decision(*call) is PermissionResult.NEUTRAL, call
