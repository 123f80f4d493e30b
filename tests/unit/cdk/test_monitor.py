"""AttestationMonitor and AttestationVerifier: what their templates mean."""

import json
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_ssm as ssm
from aws_cdk.assertions import Annotations, Match, Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.attestation_verifier import AttestationVerifier
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.handlers.settings import Fleet

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def eif(tmp_path_factory):
    path = tmp_path_factory.mktemp("eif") / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={})
    return path


@pytest.fixture(scope="module")
def locked(eif):
    return read_eif(eif.read_bytes()).measurements


class TaggedHost(EnclaveHost):
    """A host that is found by its tag, as the hosts of a fleet are."""

    @property
    def association_targets(self):
        return [ssm.CfnAssociation.TargetProperty(key="tag:fleet", values=["blue"])]


class Monitored(cdk.Stack):
    bootstrap: EnclaveBootstrap
    monitor: AttestationMonitor


def _stack(folder, eif, locked, host=EnclaveHost, **options):
    app = cdk.App(outdir=str(folder), context=json.loads((ROOT / "cdk.json").read_text())["context"])
    stack = Monitored(app, "S")
    stack.bootstrap = EnclaveBootstrap(
        stack, "Bootstrap", parent=host(stack, "Host"), image=EnclaveImage.from_eif(stack, "Image", eif, name="hello", measurements=locked)
    )
    stack.monitor = AttestationMonitor(stack, "Monitor", bootstraps=[stack.bootstrap], **options)
    return stack


@pytest.fixture(scope="module")
def stack(eif, locked, tmp_path_factory):
    return _stack(tmp_path_factory.mktemp("out"), eif, locked)


@pytest.fixture(scope="module")
def template(stack):
    return Template.from_stack(stack)


def _properties(template, kind, **wanted):
    return [one["Properties"] for one in template.find_resources(kind, {"Properties": wanted} if wanted else None).values()]


def _statements(template, logical_id):
    """The statements of the policies of the role of that name."""
    policies = _properties(template, "AWS::IAM::Policy")
    return [one for policy in policies if logical_id in json.dumps(policy["Roles"]) for one in policy["PolicyDocument"]["Statement"]]


def _function(template, name):
    (found,) = [
        one for one in _properties(template, "AWS::Lambda::Function") if one["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == name
    ]
    return found


def _resolved(value):
    """A value with its references as text."""
    if isinstance(value, dict) and "Fn::Join" in value:
        return "".join(one if isinstance(one, str) else _text(one) for one in value["Fn::Join"][1])
    return value


def _text(reference):
    (found,) = reference.values()
    return "i-0123456789abcdef0" if "Instance" in str(found) else "arn:aws:iam::123456789012:role/x" if "Role" in str(found) else str(found)


def test_the_functions_understand_their_settings(template, locked):
    (parameter,) = _properties(template, "AWS::SSM::Parameter")
    fleet = Fleet.from_object(json.loads(_resolved(parameter["Value"])))
    assert (fleet.enclave, fleet.reference.current, dict(fleet.targets)) == ("hello", locked, {"InstanceIds": ("i-0123456789abcdef0",)})
    path = _function(template, "check-enclaves")["Environment"]["Variables"]["SETTINGS_PATH"]
    assert parameter["Name"] == f"{path}/fleets/hello"
    assert len(parameter["Name"]) < 150


def test_a_url_that_nobody_asks_for_is_not_made(template):
    """Some Regions have no Function URLs."""
    assert _properties(template, "AWS::Lambda::Url") == []


def test_only_one_run_at_a_time_and_its_lease_outlives_it(template):
    check = _function(template, "check-enclaves")
    assert check["ReservedConcurrentExecutions"] == 1
    assert int(check["Environment"]["Variables"]["LEASE_SECONDS"]) > check["Timeout"]
    assert (check["TracingConfig"], check["RecursiveLoop"], "DeadLetterConfig" in check) == ({"Mode": "Active"}, "Allow", True)
    assert "TRUST_ANCHOR" not in check["Environment"]["Variables"]


def test_the_check_may_send_one_document_to_its_instance_and_little_else(template):
    statements = _statements(template, "MonitorCheckRole")
    sends = [one for one in statements if "ssm:SendCommand" in one["Action"]]
    resources = json.dumps([one["Resource"] for one in sends])
    assert ("AttestDocument" in resources, "HostInstance" in resources, "BootstrapDocument" in resources) == (True, True, False)
    actions = {action for one in statements for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])}
    assert not any(action.startswith(("kms:", "s3:", "iam:")) or action.endswith("*") for action in actions), actions
    assert {action for one in statements if one["Resource"] == "*" for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])} <= {
        "ec2:DescribeInstances", "ssm:GetCommandInvocation", "xray:PutTraceSegments", "xray:PutTelemetryRecords"
    }  # fmt: skip


def test_the_check_may_delete_states_of_its_parents_and_no_other_parameter(stack, template):
    (deletes,) = [one for one in _statements(template, "MonitorCheckRole") if "ssm:DeleteParameters" in one["Action"]]
    assert (deletes["Effect"], _resolved(deletes["Resource"]).partition(":parameter")[2]) == ("Allow", f"{stack.bootstrap.parameter}*")
    (parameter,) = _properties(template, "AWS::SSM::Parameter")
    assert Fleet.from_object(json.loads(_resolved(parameter["Value"]))).states == stack.bootstrap.parameter


def test_a_fleet_is_found_by_its_tag_and_asked_by_it_alone(eif, locked, tmp_path):
    stack = _stack(tmp_path, eif, locked, host=TaggedHost)
    template = Template.from_stack(stack)
    (parameter,) = _properties(template, "AWS::SSM::Parameter")
    assert dict(Fleet.from_object(json.loads(_resolved(parameter["Value"]))).targets) == {"tag:fleet": ("blue",)}
    statements = _statements(template, "MonitorCheckRole")
    (send,) = [one for one in statements if "ssm:SendCommand" in one["Action"] and "Condition" in one]
    assert send["Condition"] == {"StringEquals": {"ssm:resourceTag/fleet": ["blue"]}}
    assert any("ec2:DescribeInstances" in one["Action"] for one in statements)
    assert [one.rule_name for one in AwsSolutionsChecks(stack.node.root).validate_scope(stack.node.root).violations] == []


def test_it_runs_by_schedule_after_bootstraps_and_after_deployments(template):
    rules = _properties(template, "AWS::Events::Rule")
    assert [one["ScheduleExpression"] for one in rules if "ScheduleExpression" in one] == ["rate(15 minutes)"]
    patterns = {one["EventPattern"]["detail-type"][0]: one["EventPattern"]["detail"] for one in rules if "EventPattern" in one}
    assert patterns["EC2 State Manager Instance Association State Change"]["status"] == ["Success"]
    assert patterns["CloudFormation Stack Status Change"]["stack-id"] == [{"Ref": "AWS::StackId"}]
    assert all("DeadLetterConfig" in target for one in rules for target in one["Targets"])


def test_a_missing_verdict_is_an_alarm(template):
    (alarm,) = _properties(template, "AWS::CloudWatch::Alarm", MetricName="AttestationPassed")
    assert (alarm["TreatMissingData"], alarm["Statistic"], alarm["Threshold"], alarm["Period"]) == ("breaching", "Minimum", 1, 900)
    assert {one["Name"]: one["Value"] for one in alarm["Dimensions"]} == {
        "Enclave": "hello",
        "Monitor": _function(template, "check-enclaves")["Environment"]["Variables"]["SETTINGS_PATH"].removeprefix("/nitrokit/"),
        "service": "check-enclaves",
    }


def test_a_monitor_that_says_nothing_is_not_hidden_by_another_one_of_an_enclave_of_that_name(eif, locked, tmp_path):
    stack = _stack(tmp_path, eif, locked)
    AttestationMonitor(stack, "Second", bootstraps=[stack.bootstrap])
    alarms = _properties(Template.from_stack(stack), "AWS::CloudWatch::Alarm", MetricName="AttestationPassed")
    assert len({json.dumps(one["Dimensions"]) for one in alarms}) == len(alarms) == 2


def test_alarms_go_where_they_are_wanted_and_findings_too(eif, locked, tmp_path):
    app = cdk.App()
    topics = cdk.Stack(app, "T", env=cdk.Environment(account="123456789012", region="eu-west-1"))
    topic = sns.Topic(topics, "Topic")
    stack = _stack(tmp_path, eif, locked, security_hub=True)
    imported = sns.Topic.from_topic_arn(stack, "Imported", "arn:aws:sns:eu-west-1:123456789012:x")
    second = AttestationMonitor(stack, "Second", bootstraps=[stack.bootstrap], alarm_topic=imported, topic=imported)
    template = Template.from_stack(stack)
    alarms = template.find_resources("AWS::CloudWatch::Alarm")
    assert {bool(one["Properties"].get("AlarmActions")) for name, one in alarms.items() if name.startswith("Second")} == {True}
    assert len(second.alarms) == len([name for name in alarms if name.startswith("Second")])
    assert any("sns:Publish" in one["Action"] for one in _statements(template, "SecondCheckRole"))
    assert any("securityhub:BatchImportFindings" in one["Action"] for one in _statements(template, "MonitorCheckRole"))
    assert topic.node.scope is topics


def test_every_check_goes_into_the_ledger_where_there_is_one(eif, locked, tmp_path):
    stack = _stack(tmp_path, eif, locked)
    AttestationMonitor(stack, "Second", bootstraps=[stack.bootstrap], ledger=AttestationLedger(stack, "Ledger"))
    resources = Template.from_stack(stack).to_json()["Resources"]
    (table,) = [name for name in resources if name.startswith("LedgerTable")]
    (function,) = [
        one for name, one in resources.items() if name.startswith("SecondCheckFunction") and one["Type"] == "AWS::Lambda::Function"
    ]
    assert function["Properties"]["Environment"]["Variables"]["LEDGER_TABLE"] == {"Ref": table}
    (policy,) = [one for name, one in resources.items() if name.startswith("SecondCheckRoleDefaultPolicy")]
    (statement,) = [one for one in policy["Properties"]["PolicyDocument"]["Statement"] if one["Resource"] == {"Fn::GetAtt": [table, "Arn"]}]
    assert statement["Action"] == ["dynamodb:BatchGetItem", "dynamodb:PutItem"]
    assert "LEDGER_TABLE" not in json.dumps([one for name, one in resources.items() if name.startswith("MonitorCheckFunction")])


def test_a_foreign_trust_anchor_is_passed_on_with_a_warning(eif, locked, tmp_path):
    stack = _stack(tmp_path, eif, locked, trust_anchor=TrustAnchor("local", AWS_NITRO_ROOT_G1.der + b"x"))
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("not AWS's root"))
    template = Template.from_stack(stack)
    for name in ("check-enclaves", "verify-attestation"):
        assert "TRUST_ANCHOR" in _function(template, name)["Environment"]["Variables"]


def test_what_cannot_be_meant_is_refused(stack):
    with pytest.raises(ValueError, match="expected 60 to 302400 s"):
        AttestationMonitor(stack, "Fast", bootstraps=[stack.bootstrap], schedule=cdk.Duration.seconds(30))
    with pytest.raises(ValueError, match="at least one"):
        AttestationMonitor(stack, "None", bootstraps=[])
    with pytest.raises(ValueError, match="two fleets have one name"):
        AttestationMonitor(stack, "Twice", bootstraps=[stack.bootstrap, stack.bootstrap])


def test_an_image_that_nobody_can_ask_is_refused(stack, eif, locked):
    """It would be UNREACHABLE for ever, and the alarm with it."""
    silent = EnclaveImage.from_eif(stack, "Silent", eif, name="silent", measurements=locked, controlled=False)
    bootstrap = EnclaveBootstrap(stack, "RunSilent", parent=EnclaveHost(stack, "Other"), image=silent)
    with pytest.raises(ValueError, match="S/Silent has another init than nitrokit's"):
        AttestationMonitor(stack, "OfSilent", bootstraps=[stack.bootstrap, bootstrap])


def test_another_lock_starts_the_verifier_anew(stack, eif, locked, tmp_path):
    versions = set()
    for number, app in enumerate((b"app", b"another app")):
        path = tmp_path / f"{number}.eif"
        with path.open("w+b") as file:
            write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", app], metadata={})
        other = _stack(tmp_path / str(number), path, read_eif(path.read_bytes()).measurements)
        versions.add(_function(Template.from_stack(other), "verify-attestation")["Environment"]["Variables"]["SETTINGS_VERSION"])
    assert len(versions) == 2


def test_the_verifiers_url_is_for_those_who_were_granted_it(tmp_path):
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path)), "V")
    verifier = AttestationVerifier(stack, "Verifier", concurrency=3)
    role = iam.Role(stack, "Team", assumed_by=iam.AccountRootPrincipal())
    verifier.grant_verify(role)
    AttestationVerifier.from_function_arn(stack, "Imported", "arn:aws:lambda:eu-west-1:123456789012:function:verify").grant_verify(role)
    cdk.CfnOutput(stack, "Url", value=verifier.url.url)
    assert verifier.url is verifier.url
    template = Template.from_stack(stack)
    (url,) = _properties(template, "AWS::Lambda::Url")
    assert url["AuthType"] == "AWS_IAM"
    assert _function(template, "verify-attestation")["ReservedConcurrentExecutions"] == 3
    actions = json.dumps(_statements(template, "Team"))
    assert ("lambda:InvokeFunctionUrl" in actions, 'lambda:InvokeFunction"' in actions) == (True, True)
    assert "ssm:" not in json.dumps(_statements(template, "VerifierVerifyRole"))
