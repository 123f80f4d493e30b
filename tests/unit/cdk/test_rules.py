"""The rules of the pack, each on a template that breaks it and ones that do not; without synthesis."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nitrokit.cdk.validation.model import App, Template, defaults
from nitrokit.cdk.validation.rules import RULES, check_app
from nitrokit.core.intrinsics import Environment
from nitrokit.core.key_policy import RULES as FINDINGS
from nitrokit.core.key_policy import build_key_policy
from nitrokit.core.measurements import Measurements, digest

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ONE = Measurements(digest([b"one"]), digest([b"boot"]), digest([b"app"]))
POLICY = build_key_policy(measurements=[ONE], host_role_arn="arn:aws:iam::123456789012:role/host", account="123456789012")
KEY = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": POLICY}}
ALARM = {"Type": "AWS::CloudWatch::Alarm", "Properties": {"Namespace": "Nitrokit", "MetricName": "AttestationPassed"}}


def _host(**changes):
    properties = {
        "EnclaveOptions": {"Enabled": True}, "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}, "SecurityGroupIds": [{"Fn::GetAtt": ["Group", "GroupId"]}],
        "SubnetId": {"Ref": "Subnet"},
    }  # fmt: skip
    return {"Type": "AWS::EC2::Instance", "Properties": {**properties, **changes}}


def _fleet(**changes):
    return {"Type": "AWS::EC2::LaunchTemplate", "Properties": {"LaunchTemplateData": _host(**changes)["Properties"]}}


def _broken(resources, *, default_rules=True, others=(), outputs=None, nested=None, nested_outputs=None):
    here = Environment(parameters=defaults(PARAMETERS))
    templates = [Template(f"S{number}", "x", one, here, outputs or {}) for number, one in enumerate([resources, *others])]
    templates += [Template("S0/Nested", "x", nested, Environment(), nested_outputs or {})] if nested else []
    return sorted({one.rule.id for one in check_app(App(tuple(templates), NOW, default_rules))})


def _group(**rule):
    return {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {"SecurityGroupIngress": [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **rule}]},
    }


def _script(text, kind="AWS::SSM::Document"):
    return {"Type": kind, "Properties": {"Content": {"mainSteps": [{"inputs": {"runCommand": [text]}}]}}}


def _policy(**statement):
    statement = {"Effect": "Allow", "Resource": {"Fn::GetAtt": ["Key", "Arn"]}, **statement}
    return {"Type": "AWS::IAM::Policy", "Properties": {"PolicyDocument": {"Statement": [statement]}}}


def _dated(date, operator="DateLessThanEquals"):
    policy = json.loads(json.dumps(POLICY))
    policy["Statement"][0]["Condition"][operator] = {"aws:CurrentTime": date}
    return {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}


def _open_key(*, sealed=True, **statement):
    statements = [one for one in POLICY["Statement"] if sealed or one["Sid"] != "DenyWhatNoAttestationGates"]
    return {
        "Type": "AWS::KMS::Key",
        "Properties": {"KeyPolicy": {**POLICY, "Statement": [*statements, {"Resource": "*", "Effect": "Allow", **statement}]}},
    }


def _conditional(*names):
    """Statements that do no harm, each there under a condition of its own."""
    harmless = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:role/x"}, "Action": "kms:DescribeKey", "Resource": "*"}
    return [{"Fn::If": [name, harmless, {"Ref": "AWS::NoValue"}]} for name in names]


def _of(kind, **properties):
    return {"Type": f"AWS::{kind}", "Properties": properties}


def _init(**config):
    return {**_host(), "Metadata": {"AWS::CloudFormation::Init": {"config": config}}}


_SETTINGS_V1 = _of("EC2::LaunchTemplate", LaunchTemplateData={"MetadataOptions": {"HttpTokens": "optional"}})
_SETTINGS_V2 = _of("EC2::LaunchTemplate", LaunchTemplateData={"MetadataOptions": {"HttpTokens": "required"}})
_PUBLIC = {"Public": _of("EC2::Subnet", MapPublicIpOnLaunch=True)}
GOOD = {"Host": _host(), "Key": KEY, "Alarm": ALARM, "Alias": _of("KMS::Alias", TargetKeyId={"Ref": "Key"})}
PARAMETERS = {
    "Cidr": {"Type": "String", "Default": "0.0.0.0/0"},
    "Named": {"Type": "String"},
    "Who": {"Type": "String", "Default": "*"},
    "Path": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "*"},
}
CONFIG = '{"name": "x", "image_uri": "s3://b/k", "measurements": {"PCR0": "00"}}'
CASES = {
    "nitrokit/imdsv1": [
        {"Host": _host(MetadataOptions={"HttpTokens": "optional"})},
        {"Host": _host(MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2})},
        {"Host": _fleet(MetadataOptions=None)},
        {"Host": _fleet(EnclaveOptions={"Enabled": "true"}, MetadataOptions={})},
        {"Host": _fleet(EnclaveOptions={"Enabled": {"Fn::If": ["Production", True, False]}}, MetadataOptions={})},
        {"Host": _fleet(EnclaveOptions={"Fn::If": ["Production", {"Enabled": True}, {"Ref": "AWS::NoValue"}]}, MetadataOptions={})},
        {"Host": _host(LaunchTemplate={"LaunchTemplateId": {"Ref": "Settings"}}, MetadataOptions=None), "Settings": _SETTINGS_V1},
    ],
    "nitrokit/public-ingress": [
        {"Group": _group(CidrIp="0.0.0.0/0")},
        {"Group": _group(CidrIpv6="::/0")},
        {
            "Group": _group(),
            "In": _of("EC2::SecurityGroupIngress", **{"GroupId": {"Fn::GetAtt": ["Group", "GroupId"]}, "CidrIp": "0.0.0.0/0"}),
        },
        {"Host": _fleet(SecurityGroupIds=None, NetworkInterfaces=[{"Groups": [{"Ref": "Group"}]}]), "Group": _group(CidrIp="0.0.0.0/0")},
        {
            "Host": _fleet(),
            "Open": _group(CidrIp="0.0.0.0/0"),
            "One": _of("EC2::Instance", LaunchTemplate={"LaunchTemplateId": {"Ref": "Host"}}, SecurityGroupIds=[{"Ref": "Open"}]),
        },
        {"Group": _group(CidrIp="0.0.0.0/1")},
        {"Group": _group(CidrIp="12.0.0.0/7")},
        {"Group": _group(CidrIp="000.0.0.0/0")},
        {"Group": _group(CidrIpv6="2000::/3")},
        {"Group": _group(CidrIpv6="0:0::0/0")},
        {"Group": _group(CidrIp={"Fn::If": ["Open", "0.0.0.0/0", "10.0.0.0/8"]})},
        {"Group": _group(CidrIp={"Fn::Join": ["/", ["0.0.0.0", "0"]]})},
        {"Group": _group(CidrIp={"Ref": "Cidr"})},
        {"Group": _of("EC2::SecurityGroup", SecurityGroupIngress=[{"Fn::If": ["Open", {"CidrIp": "0.0.0.0/0"}, {"Ref": "AWS::NoValue"}]}])},
        {"Group": _of("EC2::SecurityGroup", SecurityGroupIngress={"Fn::If": ["Open", [{"CidrIp": "0.0.0.0/0"}], []]})},
        {
            "Group": _group(SourcePrefixListId={"Ref": "List"}),
            "List": _of("EC2::PrefixList", Entries=[{"Cidr": "10.0.0.0/8"}, {"Cidr": "::/0"}]),
        },
        {
            "Group": _group(),
            "In": _of("EC2::SecurityGroupIngress", GroupId={"Ref": "Group"}, SourcePrefixListId={"Fn::GetAtt": ["List", "PrefixListId"]}),
            "List": _of("EC2::PrefixList", Entries=[{"Cidr": "0.0.0.0/2"}]),
        },
    ],
    "nitrokit/public-address": [
        {"Host": _host(NetworkInterfaces=[{"AssociatePublicIpAddress": True}])},
        {"Ip": _of("EC2::EIP", InstanceId={"Ref": "Host"})},
        {"Subnet": _of("EC2::Subnet", MapPublicIpOnLaunch=True)},
        {
            "Host": _fleet(),
            "Group1": _of(
                "AutoScaling::AutoScalingGroup", LaunchTemplate={"LaunchTemplateId": {"Ref": "Host"}}, VPCZoneIdentifier=[{"Ref": "Public"}]
            ),
            **_PUBLIC,
        },
        {
            "Host": _fleet(),
            "One": _of(
                "EC2::Instance",
                LaunchTemplate={"LaunchTemplateName": "x", "Version": {"Fn::GetAtt": ["Host", "LatestVersionNumber"]}},
                SubnetId={"Ref": "Public"},
            ),
            **_PUBLIC,
        },
        {
            "Host": _fleet(),
            "One": _of("EC2::Instance", LaunchTemplate={"LaunchTemplateId": {"Ref": "Host"}}),
            "Ip": _of("EC2::EIP", InstanceId={"Ref": "One"}),
        },
    ],
    "nitrokit/debug-mode": [
        {"Run": _script("nitro-cli run-enclave --eif-path x --debug-mode")},
        {"Run": _script('{"debug_mode" : true}', "AWS::SSM::Association")},
        {"Host": _host(UserData={"Fn::Base64": {"Fn::Join": ["", ["nitro-cli run-enclave ", "--attach-console"]]}})},
        {"Run": _script('echo "{\\"debug_mode\\": true}" > run.json; nitro-cli run-enclave --config run.json')},
        {"Host": _init(commands={"1": {"command": "nitro-cli run-enclave --debug-mode"}})},
        {"Host": _init(files={"/run.json": {"content": {"debug_mode": True}}})},
    ],
    "nitrokit/unpinned-image": [
        {"Build": _script("nitro-cli build-enclave --docker-uri app:latest --output-file x.eif")},
        {"Host": _host(UserData={"Fn::Base64": {"Fn::Join": ["", ["build-enclave --docker-uri ", {"Ref": "Repository"}]]}})},
        {"Config": _script('{"image_uri": "s3://bucket/key"}', "AWS::SSM::Association")},
    ],
    "nitrokit/missing-alarm": [{"Alarm": _of("CloudWatch::Alarm", Namespace="AWS/EC2")}],
    "nitrokit/stale-set": [
        {"Key": _dated("2026-05-31T23:59:59Z")},
        {"Key": _dated("1780271999")},
        {"Key": _dated("2026-06-01T00:00:00", "DateLessThan")},
    ],
    "nitrokit/service-encryption": [
        {"Queue": _of("SQS::Queue", KmsMasterKeyId={"Ref": "Key"})},
        {"Topic": _of("SNS::Topic", KmsMasterKeyId={"Fn::GetAtt": ["Key", "Arn"]})},
        {"Volume": _of("EC2::Volume", KmsKeyId={"Fn::GetAtt": "Key.Arn"})},
        {"Table": _of("DynamoDB::Table", SSESpecification={"KMSMasterKeyId": {"Ref": "Key"}})},
        {"Logs": _of("Logs::LogGroup", KmsKeyId={"Ref": "Key"})},
        {"Project": _of("CodeBuild::Project", EncryptionKey={"Ref": "Key"})},
        {"Function": _of("Lambda::Function", KmsKeyArn={"Ref": "Key"})},
        {"Secret": _of("SecretsManager::Secret", KmsKeyId={"Fn::Sub": "${Key.Arn}"})},
        {"Secret": _of("SecretsManager::Secret", KmsKeyId={"Fn::Sub": ["${x}", {"x": {"Ref": "Key"}}]})},
        {"Cluster": _of("EKS::Cluster", EncryptionConfig=[{"Provider": {"KeyArn": {"Fn::GetAtt": ["Key", "Arn"]}}}])},
        {"Stream": _of("Kinesis::Stream", StreamEncryption={"EncryptionType": "KMS", "KeyId": {"Ref": "Key"}})},
    ],
    "nitrokit/iam-grant": [
        {"Policy": _policy(Action="kms:Decrypt")},
        {
            "Policy": _policy(
                Action=["kms:CreateGrant", "kms:DescribeKey"], Condition={"StringEquals": {"kms:RecipientAttestation:PCR0": "00"}}
            )
        },
        {"Policy": _policy(Action="kms:*")},
        {"Policy": _policy(NotAction="kms:DisableKey")},
        {"Policy": {**_policy(Action="kms:Decrypt"), "Type": "AWS::IAM::RolePolicy"}},
        {"Role": _of("IAM::Role", Policies=[{"PolicyDocument": _policy(Action="kms:GenerateDataKey*")["Properties"]["PolicyDocument"]}])},
    ],
    "nitrokit/policy-change": [
        {"Key": _open_key(Principal={"AWS": "arn:aws:iam::123456789012:role/a"}, Action="kms:PutKeyPolicy", sealed=False)}
    ],
    "nitrokit/policy-form": [
        {"Key": _of("KMS::Key", KeyPolicy={**POLICY, "Version": "2020"})},
        {"Key": _of("KMS::Key", KeyPolicy={"Fn::If": ["A", POLICY, {"Version": "2020"}]})},
        {"Key": _of("KMS::Key", KeyPolicy={**POLICY, "Statement": [*POLICY["Statement"], *_conditional(*"ABCDEF")]})},
    ],
    "nitrokit/alias-move": [{"Key": _open_key(Principal={"AWS": "*"}, Action="kms:UpdateAlias", sealed=False)}],
    "nitrokit/unauthenticated-ciphertext": [
        {"Key": _open_key(Principal={"AWS": {"Ref": "Who"}}, Action="kms:Encrypt")},
        {"Key": _open_key(Principal={"AWS": "*"}, Action="kms:Encrypt")},
    ],
    "nitrokit/not-principal": [{"Key": _open_key(NotPrincipal={"AWS": "arn:aws:iam::123456789012:role/x"}, Action="kms:DescribeKey")}],
}


@pytest.mark.parametrize(("rule", "resources"), [(rule, one) for rule, cases in CASES.items() for one in cases])
def test_what_breaks_a_rule_breaks_that_rule_alone(rule, resources):
    assert rule in RULES
    assert _broken({**GOOD, **resources}) == [rule]


@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"Group": _group(CidrIp="10.0.0.0/8")},
        {"Other": _group(CidrIp="0.0.0.0/0")},
        {"Group": _group(CidrIp="12.0.0.0/8")},
        {"Group": _group(CidrIpv6="fc00::/7")},
        {"Group": _group(CidrIp={"Fn::GetAtt": ["Vpc", "CidrBlock"]})},
        {"Group": _group(CidrIp={"Ref": "Named"})},
        {"Group": _group(CidrIp="odd")},
        {"Group": _group(SourcePrefixListId="pl-12345678"), "List": _of("EC2::PrefixList", Entries=[{"Cidr": "::/0"}])},
        {"Group": _group(SourcePrefixListId={"Ref": "List"}), "List": _of("EC2::PrefixList", Entries=[{"Cidr": "10.0.0.0/8"}])},
        {"Other": _of("EC2::Instance", **{})},
        {"Key": _dated("2026-06-01T00:00:00Z")},
        {"Host": _host(MetadataOptions={"HttpEndpoint": "disabled"})},
        {"Host": _host(NetworkInterfaces=[{"AssociatePublicIpAddress": False}]), "Subnet": _of("EC2::Subnet", MapPublicIpOnLaunch=True)},
        {"Build": _script("nitro-cli build-enclave --docker-uri app@sha256:0123 --output-file x.eif")},
        {"Config": _script(CONFIG, "AWS::SSM::Association")},
        {"Function": {"Type": "AWS::Lambda::Function", "Properties": {"Environment": {"Variables": {"KMS_KEY_ID": {"Ref": "Key"}}}}}},
        {"Policy": _policy(Action=["kms:Encrypt", "kms:DescribeKey"])},
        {"Policy": _policy(Action="kms:Decrypt", Condition={"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": "00"}})},
        {"Policy": _policy(Action="kms:Decrypt", Resource="arn:aws:kms:eu-west-1:1:key/x")},
        {"Policy": _policy(Effect="Deny", Action="kms:*")},
        {"Queue": _of("SQS::Queue", **{"KmsMasterKeyId": {"Ref": "Other"}, "KmsDataKeyReusePeriodSeconds": 60})},
        {
            "Plain": {
                "Type": "AWS::KMS::Key",
                "Properties": {
                    "KeyPolicy": {"Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}]}
                },
            }
        },
        {"Odd": "x"},
        {"Key": _dated("soon")},
        {"Key": _open_key(Principal={"AWS": "arn:aws:iam::999999999999:role/owner"}, Action="kms:Encrypt")},
        {"Bucket": {"Type": "AWS::S3::Bucket"}},
        {"Host": _host(LaunchTemplate={"LaunchTemplateId": {"Ref": "Settings"}}, MetadataOptions=None), "Settings": _SETTINGS_V2},
        {"Host": _init(commands={"1": {"command": "nitro-cli run-enclave --eif-path x"}})},
        {"Other": _fleet(EnclaveOptions={"Enabled": "false"}, MetadataOptions={})},
        {"Inner": _of("CloudFormation::Stack", Parameters={"KmsKeyArn": {"Fn::GetAtt": ["Key", "Arn"]}})},
        {"Policy": _policy(NotAction="kms:*")},
        {"Key": _of("KMS::Key", KeyPolicy={"Fn::If": ["A", POLICY, {**POLICY, "Id": "other"}]})},
        {"Key": _open_key(Principal={"AWS": {"Ref": "Path"}}, Action="kms:Encrypt")},
        {"Key": _open_key(Principal={"AWS": {"Ref": "Named"}}, Action="kms:Encrypt")},
        {"Key": _of("KMS::Key", KeyPolicy={**POLICY, "Statement": [*POLICY["Statement"], *_conditional("A", "B")]})},
    ],
)
def test_what_is_well_made_breaks_none(resources):
    assert _broken({**GOOD, **resources}) == []


ROOT_MAY = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*", "Resource": "*"}
NO_VALUE = {"Ref": "AWS::NoValue"}


@pytest.mark.parametrize(
    ("policy", "rule", "when"),
    [
        ({"Fn::If": ["Production", POLICY, {"Statement": [ROOT_MAY]}]}, "iam-delegation", "where not Production"),
        ({"Fn::If": ["Production", POLICY, NO_VALUE]}, "iam-delegation", "where not Production"),
        ({**POLICY, "Statement": [*POLICY["Statement"][:1], {"Fn::If": ["Closed", POLICY["Statement"][-1], ROOT_MAY]}]}, "iam-delegation", "where not Closed"),
        ({"Fn::If": ["A", {"Fn::If": ["B", {"Statement": [ROOT_MAY]}, POLICY]}, POLICY]}, "iam-delegation", "where A, B"),
        ({"Fn::If": ["Old", _dated("2026-05-31T00:00:00Z")["Properties"]["KeyPolicy"], POLICY]}, "stale-set", "where Old"),
    ],
)  # fmt: skip
def test_a_policy_under_a_condition_is_judged_as_each_outcome_makes_it(policy, rule, when):
    """A Deny of one outcome excuses nothing in the other."""
    app = App((Template("S", "x", {**GOOD, "Key": _of("KMS::Key", KeyPolicy=policy)}, Environment()),), NOW)
    found = [one for one in check_app(app) if one.rule.id == f"nitrokit/{rule}"]
    assert found
    assert all(one.description.endswith(f"; {when})") for one in found)


def test_a_finding_that_no_condition_changes_is_told_once():
    policy = {
        **POLICY,
        "Statement": [
            *POLICY["Statement"],
            *_conditional("A", "B"),
            {**ROOT_MAY, "Sid": "Open", "Action": "kms:TagResource", "NotPrincipal": ROOT_MAY["Principal"]},
        ],
    }
    del policy["Statement"][-1]["Principal"]
    app = App((Template("S", "x", {**GOOD, "Key": _of("KMS::Key", KeyPolicy=policy)}, Environment()),), NOW)
    assert len([one for one in check_app(app) if one.rule.id == "nitrokit/not-principal"]) == 1


def test_every_rule_of_its_own_has_a_case():
    findings = {f"nitrokit/{id}" for id in FINDINGS}
    assert {id for id in RULES if id not in findings} <= {*CASES, "nitrokit/default-rules"}


def test_stacks_are_looked_at_together():
    queue = {"Queue": _of("SQS::Queue", KmsMasterKeyId={"Fn::ImportValue": "shared-key"})}
    exported = {"Out": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}, "Export": {"Name": "shared-key"}}}
    assert _broken({"Host": _host()}, others=[{"Alarm": ALARM}]) == []
    assert _broken(GOOD, others=[queue], outputs=exported) == ["nitrokit/service-encryption"]
    assert _broken(GOOD, others=[queue], outputs={"Out": {**exported["Out"], "Value": {"Ref": "Alias"}}}) == []


def test_a_stack_of_the_same_shape_is_another_one():
    queue = {"Key": _of("KMS::Key"), "Queue": _of("SQS::Queue", KmsMasterKeyId={"Ref": "Key"})}
    public = {
        "Subnet": _of("EC2::Subnet", MapPublicIpOnLaunch=True),
        "Group": _group(CidrIp="0.0.0.0/0"),
        "Ip": _of("EC2::EIP", InstanceId={"Ref": "Host"}),
    }
    assert _broken(GOOD, others=[queue, public]) == []


def test_nested_stacks_are_looked_into():
    inner = {"Inner": _of("CloudFormation::Stack", Parameters={"KeyArn": {"Fn::GetAtt": ["Key", "Arn"]}, "Other": "x"})}
    for parameter, found in (("KeyArn", ["nitrokit/service-encryption"]), ("Other", [])):
        assert _broken({**GOOD, **inner}, nested={"Queue": _of("SQS::Queue", KmsMasterKeyId={"Ref": parameter})}) == found
    outer = {"Inner": _of("CloudFormation::Stack"), "Queue": _of("SQS::Queue", KmsMasterKeyId={"Fn::GetAtt": ["Inner", "Outputs.KeyOut"]})}
    output = {"KeyOut": {"Value": {"Ref": "Key"}}}
    assert _broken(outer, nested={"Key": KEY}, nested_outputs=output) == ["nitrokit/service-encryption"]


def test_cloudformations_own_errors_should_be_errors():
    assert _broken(GOOD, default_rules=False) == ["nitrokit/default-rules"]
    assert json.loads((ROOT / "cdk.json").read_text())["context"]["@aws-cdk/core:validateAgainstDefaultRules"] is True


def test_the_index_lists_every_rule_with_its_severity():
    page = (ROOT / "docs" / "rules.md").read_text()
    listed = dict(re.findall(r"^\| `(nitrokit/[a-z0-9-]+)` \| (\w+) \|", page, re.MULTILINE))
    assert listed == {id: rule.severity.name.lower() for id, rule in RULES.items()}
