"""The monitor's part for keys: the guard gets the very policy that is deployed, the canary what it must not be able to use, and nobody more than that."""

import json
from pathlib import Path
from types import SimpleNamespace

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.attestation_ledger import AttestationLedger
from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.monitor_settings import pack
from nitrokit.cdk.validation.plugin import NitrokitChecks
from nitrokit.core.eif import read_eif, write_eif
from nitrokit.core.intrinsics import resolve
from nitrokit.core.key_policy import policy_differences
from nitrokit.handlers import settings

ROOT = Path(__file__).parents[3]
NAMES = {"AWS::AccountId": "123456789012", "AWS::Partition": "aws", "AWS::Region": "eu-west-1"}


def _name(name):
    return NAMES.get(name) or f"arn:aws:x:eu-west-1:123456789012:{name}"


def _stack(folder, **options):
    app = cdk.App(outdir=str(folder / "out"), context=json.loads((ROOT / "cdk.json").read_text())["context"])
    stack, monitor = _fill(cdk.Stack(app, "S"), folder, **options)
    kms.Alias(
        cdk.Stack(app, "Names"), "Late", alias_name="alias/late", target_key=stack.node.find_child("Key")
    )  # of another stack: known too
    return stack, monitor


def _fill(stack, folder, sealed=True, **options):
    eif = folder / "small.eif"
    with eif.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={})
    image = EnclaveImage.from_eif(stack, "Image", eif, name="hello", measurements=read_eif(eif.read_bytes()).measurements)
    host = EnclaveHost(stack, "Host")
    administrator = None if sealed else "arn:aws:iam::123456789012:role/administrator"
    key = EnclaveKey(stack, "Key", images=[image], host_role=host.role, sealed=sealed, administrator_arn=administrator)
    bootstrap = EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image)
    key.add_alias("data")
    monitor = AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap], keys=[key], **options)
    key.grants.encrypt(iam.ArnPrincipal("arn:aws:iam::123456789012:role/late-owner"))  # behind the monitor: the guard must know it too
    return stack, monitor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return _stack(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def template(made):
    return Template.from_stack(made[0])


def _properties(template, kind):
    return [one["Properties"] for one in template.find_resources(kind).values()]


def _statements(template, role):
    policies = _properties(template, "AWS::IAM::Policy")
    found = [one for policy in policies if role in json.dumps(policy["Roles"]) for one in policy["PolicyDocument"]["Statement"]]
    return [({one["Action"]} if isinstance(one["Action"], str) else set(one["Action"]), one["Resource"]) for one in found]


def _guarded(template):
    """What the functions read, as Systems Manager would answer after the deployment."""
    values = {one["Name"]: resolve(one["Value"], _name) for one in _properties(template, "AWS::SSM::Parameter")}
    path = next(name for name in values if "/fleets/" in name).split("/fleets/")[0]

    def get(*, Path, Recursive, **_):
        return {"Parameters": [{"Name": name, "Value": value} for name, value in values.items() if name.startswith(f"{Path}/")]}

    return settings.keys(SimpleNamespace(get_parameters_by_path=get), {"SETTINGS_PATH": path})


def test_the_guard_compares_with_the_very_policy_that_is_deployed(template):
    (key,) = _guarded(template)
    (deployed,) = _properties(template, "AWS::KMS::Key")
    policy = resolve(deployed["KeyPolicy"], _name)
    assert policy_differences(json.dumps(policy), key.policy) == []
    assert "late-owner" in json.dumps(key.policy)
    assert key.arn.endswith("Key961B73FD.Arn")
    assert key.aliases == ("alias/data", "alias/late")


def test_each_of_two_stacks_of_one_shape_knows_its_own_aliases_alone(tmp_path):
    """As of one app for development and production: the keys have one logical id, and an alias of the other one would be told as moved for ever."""
    app = cdk.App(outdir=str(tmp_path / "out"))
    stacks = [_fill(cdk.Stack(app, name), tmp_path)[0] for name in ("Dev", "Prod")]
    for stack in stacks:
        name, key = stack.stack_name.lower(), stack.node.find_child("Key")
        key.add_alias(name)
        kms.Alias(cdk.Stack(app, f"{name}-names"), "Late", alias_name=f"alias/{name}-late", target_key=key)
        kms.CfnAlias(stack, "ById", alias_name=f"alias/{name}-id", target_key_id=key.key_id)
        kms.CfnAlias(stack, "ByRef", alias_name=f"alias/{name}-ref", target_key_id=cdk.Fn.ref(stack.get_logical_id(key.node.default_child)))
    for stack in stacks:
        (key,) = _guarded(Template.from_stack(stack))
        name = stack.stack_name.lower()
        assert set(key.aliases) == {"alias/data", *(f"alias/{name}{more}" for more in ("", "-id", "-late", "-ref"))}


def test_many_data_owners_fit_into_the_guard(tmp_path):
    """Their statement alone would be larger than a parameter, and only the deployment would have told."""
    stack, _ = _stack(tmp_path)
    for number in range(160):
        stack.node.find_child("Key").grants.encrypt(iam.ArnPrincipal(f"arn:aws:iam::123456789012:role/{'owner' * 12}{number:04}"))
    template = Template.from_stack(stack)
    values = [resolve(one["Value"], _name) for one in _properties(template, "AWS::SSM::Parameter")]
    assert max(map(len, values)) <= 8192  # Systems Manager's limit
    (key,) = _guarded(template)
    policy = resolve(_properties(template, "AWS::KMS::Key")[0]["KeyPolicy"], _name)
    assert policy_differences(json.dumps(policy), key.policy) == []
    assert json.dumps(key.policy).count("owner" * 12) == 160


def test_a_policy_that_the_guard_cannot_hold_is_told_once_at_synthesis(tmp_path):
    stack, _ = _stack(tmp_path)
    for number in range(30):
        stack.node.find_child("Key").grants.encrypt(iam.ArnPrincipal(f"arn:aws:iam::123456789012:role/{'path/' * 90}{number}"))
    with pytest.raises(RuntimeError, match="policy/guard-size") as told:
        Template.from_stack(stack)
    text = str(told.value)
    assert (text.count("policy/guard-size"), "Resolution error" in text) == (1, False)
    assert "the policy of S/Key is larger than its guard can hold" in text


def test_a_large_policy_is_spread_over_parameters():
    statements = [{"Sid": f"S{number}", "Effect": "Allow", "Resource": "*", "Condition": {"x": ["y" * 900]}} for number in range(20)]
    parts = pack(statements)
    assert [one for part in parts for one in part] == statements
    assert 1 < len(parts) <= 4
    assert all(len(json.dumps(part)) < 7700 for part in parts)
    assert pack([]) == [[]]


def test_the_canary_is_a_data_owner_whom_iam_allows_to_decrypt(template):
    allowed = [actions for actions, resource in _statements(template, "MonitorKeysCanaryRole") if "kms:Decrypt" in actions]
    assert allowed == [{"kms:Decrypt"}]
    policy = _properties(template, "AWS::KMS::Key")[0]["KeyPolicy"]
    owners = [one for one in policy["Statement"] if one["Effect"] == "Allow" and "kms:Encrypt" in one["Action"]]
    assert "MonitorKeysCanaryRole" in json.dumps(owners)
    opening = [one for one in policy["Statement"] if one["Effect"] == "Allow" and "kms:Decrypt" in one["Action"]]
    assert "MonitorKeysCanaryRole" not in json.dumps(opening)


def test_the_guard_reads_and_changes_nothing_unless_told(template, tmp_path):
    read = {
        action for actions, _ in _statements(template, "MonitorKeysGuardRole") for action in actions if action.startswith(("kms:", "sts:"))
    }
    assert read == {"kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListAliases", "kms:ListGrants"}
    restoring = Template.from_stack(_stack(tmp_path, restore=True)[0])
    more = {
        action for actions, _ in _statements(restoring, "MonitorKeysGuardRole") for action in actions if action.startswith(("kms:", "sts:"))
    }
    assert more - read == {"kms:PutKeyPolicy", "kms:RevokeGrant"}


def test_that_the_guard_may_put_a_policy_back_is_acknowledged(tmp_path):
    stack, _ = _stack(tmp_path, restore=True)
    app = stack.node.root
    cdk.Validations.of(app).add_plugins(NitrokitChecks())
    app.synth()
    report = tmp_path / "out" / "validation-report.json"
    assert "iam-grant" not in (report.read_text() if report.is_file() else "")


def test_it_restores_as_the_administrator_where_there_is_one(tmp_path):
    role = "arn:aws:iam::123456789012:role/administrator"
    stack = cdk.Stack(cdk.App(), "Other")
    given = iam.Role.from_role_arn(stack, "Administrator", role)
    template = Template.from_stack(_stack(tmp_path, sealed=False, restore=True, restore_role=given)[0])
    assert ({"sts:AssumeRole"}, role) in _statements(template, "MonitorKeysGuardRole")
    (guard,) = [one for one in _properties(template, "AWS::Lambda::Function") if "RESTORE" in one["Environment"]["Variables"]]
    assert guard["Environment"]["Variables"]["RESTORE_ROLE_ARN"] == role


def test_a_change_of_a_key_starts_the_guard_and_a_check(template):
    (rule,) = [one for one in _properties(template, "AWS::Events::Rule") if one.get("EventPattern", {}).get("source") == ["aws.kms"]]
    watched = [resolve(one, _name) for one in rule["EventPattern"]["detail"]["resources"]["ARN"]]
    # An alias that is moved away is told of with its own ARN and its new key's (KMS Developer Guide, the CloudTrail entry of UpdateAlias).
    aliases = [f"arn:aws:kms:eu-west-1:123456789012:alias/{name}" for name in ("data", "late")]
    assert watched == [_name("Key961B73FD.Arn"), *aliases]
    assert {"PutKeyPolicy", "CreateGrant", "UpdateAlias", "ReplicateKey"} <= set(rule["EventPattern"]["detail"]["eventName"])
    assert {name for target in rule["Targets"] for name in ("Guard", "Check") if name in json.dumps(target["Arn"])} == {"Guard", "Check"}
    rates = {one["ScheduleExpression"] for one in _properties(template, "AWS::Events::Rule") if "ScheduleExpression" in one}
    assert {"rate(1 minute)", "rate(15 minutes)", "rate(1 hour)"} == rates


def test_silence_of_guard_and_canary_is_an_alarm(template, made):
    alarms = {one["MetricName"]: one for one in _properties(template, "AWS::CloudWatch::Alarm") if "MetricName" in one}
    # One examination that finds something is an alarm; of five tries to decrypt, one that is denied is proof, as others may be throttled.
    for name, statistic in (("KeyPolicyIntact", "Minimum"), ("CanaryDenied", "Maximum")):
        assert (alarms[name]["TreatMissingData"], alarms[name]["Threshold"], alarms[name]["Statistic"]) == ("breaching", 1, statistic)
    opened = alarms["CanaryOpened"]
    assert (opened["ComparisonOperator"], opened["Threshold"], opened["Period"]) == ("GreaterThanThreshold", 0, 60)
    assert len(made[1].alarms) == len(template.find_resources("AWS::CloudWatch::Alarm"))


def test_nag_finds_nothing_that_is_not_acknowledged_with_a_reason(made):
    assert [one.rule_name for one in AwsSolutionsChecks(made[0].node.root).validate_scope(made[0].node.root).violations] == []


def test_the_ledger_is_written_by_the_check_and_read_by_the_audit(tmp_path):
    app = cdk.App()
    elsewhere = cdk.Stack(app, "Elsewhere", env=cdk.Environment(account="123456789012", region="eu-west-1"))
    ledger = AttestationLedger(elsewhere, "Ledger")
    stack = cdk.Stack(app, "S", env=cdk.Environment(account="123456789012", region="eu-west-1"))
    template = Template.from_stack(_fill(stack, tmp_path, ledger=ledger)[0])
    functions = _properties(template, "AWS::Lambda::Function")
    users = {
        one["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] for one in functions if "LEDGER_TABLE" in one["Environment"]["Variables"]
    }
    assert users == {"check-enclaves", "audit"}
    assert any("dynamodb:Query" in actions for actions, _ in _statements(template, "MonitorKeysAuditRole"))


# The rules before events of the documented forms, by moto's matcher

STACK, INSTANCE, OTHER_KEY = (
    "arn:aws:cloudformation:eu-west-1:123456789012:stack/S/1",
    "i-0123456789abcdef0",
    "arn:aws:kms:eu-west-1:123456789012:key/other",
)
ALIASES = "arn:aws:kms:eu-west-1:123456789012:alias/"


def _association(status):
    """Systems Manager User Guide "Amazon EventBridge event examples for Systems Manager", State Manager."""
    return {
        "source": "aws.ssm", "detail-type": "EC2 State Manager Instance Association State Change", "id": "1",
        "resources": [f"arn:aws:ec2:eu-west-1:123456789012:instance/{INSTANCE}", "arn:aws:ssm:eu-west-1:123456789012:document/d"],
        "detail": {"association-id": _name("BootstrapAssociation.AssociationId"), "instance-id": INSTANCE, "status": status, "detailed-status": status, "document-name": "d"},
    }  # fmt: skip


def _deployment(status, stack=STACK):
    """AWS CloudFormation User Guide "Stack Status Change event detail"."""
    detail = {"stack-id": stack, "status-details": {"status": status, "status-reason": ""}, "client-request-token": ""}
    return {
        "source": "aws.cloudformation",
        "detail-type": "CloudFormation Stack Status Change",
        "id": "1",
        "resources": [stack],
        "detail": detail,
    }


def _call(name, *arns):
    """KMS Developer Guide, CloudTrail's entries of this name, as EventBridge delivers them."""
    resources = [{"accountId": "123456789012", "type": "AWS::KMS::Key", "ARN": arn} for arn in arns]
    detail = {"eventSource": "kms.amazonaws.com", "eventName": name, "requestParameters": {}, "resources": resources}
    return {"source": "aws.kms", "detail-type": "AWS API Call via CloudTrail", "id": "1", "resources": [], "detail": detail}


def _started(template, event):
    """The functions that an event starts. moto's matcher does not look into lists of objects, where EventBridge takes each: so it gets each."""
    from moto.events.models import EventPattern

    found = set()
    details = [{**event["detail"], "resources": one} for one in event["detail"].get("resources", ())] or [event["detail"]]
    for rule in _properties(template, "AWS::Events::Rule"):
        if "EventPattern" in rule:
            text = json.dumps(resolve(rule["EventPattern"], _name))
            pattern = EventPattern(text, json.loads(text))
            if any(pattern.matches_event({**event, "detail": detail}) for detail in details):
                found |= {
                    name
                    for target in rule["Targets"]
                    for name in ("Check", "Guard", "Audit", "Canary")
                    if name in json.dumps(target["Arn"])
                }
    return found


def test_documented_events_start_what_they_should(template, monkeypatch):
    key, (association,) = _name("Key961B73FD.Arn"), template.find_resources("AWS::SSM::Association")
    monkeypatch.setitem(NAMES, "AWS::StackId", STACK)
    monkeypatch.setitem(NAMES, f"{association}.AssociationId", _name("BootstrapAssociation.AssociationId"))
    for event, started in [
        (_association("Success"), {"Check"}), (_association("Failed"), set()), (_association("Pending"), set()),
        (_deployment("UPDATE_COMPLETE"), {"Check"}), (_deployment("CREATE_COMPLETE"), {"Check"}), (_deployment("UPDATE_IN_PROGRESS"), set()), (_deployment("UPDATE_COMPLETE", "other"), set()),
        (_call("PutKeyPolicy", key), {"Check", "Guard"}), (_call("CreateGrant", key), {"Check", "Guard"}), (_call("ScheduleKeyDeletion", key), {"Check", "Guard"}),
        (_call("UpdateAlias", f"{ALIASES}data", OTHER_KEY), {"Check", "Guard"}), (_call("DeleteAlias", f"{ALIASES}late", key), {"Check", "Guard"}),
        (_call("UpdateAlias", f"{ALIASES}foreign", OTHER_KEY), set()), (_call("PutKeyPolicy", OTHER_KEY), set()), (_call("Decrypt", key), set()),
    ]:  # fmt: skip
        assert _started(template, event) == started, event
