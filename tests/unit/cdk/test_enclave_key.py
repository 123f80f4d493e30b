"""EnclaveKey and its grants: what the synthesised policy means, evaluated; what is refused, and why."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import aws_cdk as cdk
import jsii
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Match, Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.core.key_policy import AccessRequest, PolicyError, Severity, analyze_key_policy, evaluate
from nitrokit.core.measurements import pcr3
from nitrokit.errors import NitrokitError

ACCOUNT = "123456789012"
HOST, OWNER = f"arn:aws:iam::{ACCOUNT}:role/Host6F7B5C80", "arn:aws:iam::999999999999:role/owner"
DATE = datetime(2030, 1, 1, tzinfo=UTC)
LATE = {"aws:CurrentTime": "2030-01-01T00:00:01Z"}


def _allowed(policy, principal, action="Decrypt", context=None):
    request = AccessRequest(f"kms:{action}", principal, principal.split(":")[4], context=context or {})
    return evaluate(policy, request).allowed


def _principal(policy):
    return next(one for one in policy["Statement"] if one["Sid"].startswith("Attested"))["Principal"]["AWS"]


def _openings(policy):
    return [one["Sid"] for one in policy["Statement"] if "kms:Decrypt" in one["Action"] and one["Effect"] == "Allow"]


def _serious(policy):
    return [one.id for one in analyze_key_policy(policy, account=ACCOUNT) if one.severity > Severity.INFO]


# Scenarios


def test_one_image(stack, host, image, policy_of, document_of):
    one = image("app")
    key = EnclaveKey(stack, "Key", images=[one], host_role=host)
    policy = policy_of(stack)
    right = document_of(one.reference_values.current)
    assert _openings(policy) == ["AttestedEnclave0"]
    assert _allowed(policy, _principal(policy), context=right)
    assert not _allowed(policy, _principal(policy))
    assert not _allowed(policy, _principal(policy), context=document_of(image("other").reference_values.current))
    assert not _allowed(policy, OWNER, context=right)
    assert key.findings() == []
    assert _serious(policy) == []


def test_two_images_never_mix(stack, host, image, policy_of, document_of):
    one, other = image("app"), image("tool")
    EnclaveKey(stack, "Key", images=[one, other], host_role=host)
    policy = policy_of(stack)
    assert all(_allowed(policy, _principal(policy), context=document_of(each.reference_values.current)) for each in (one, other))
    first, second = one.reference_values.current, other.reference_values.current
    assert not _allowed(policy, _principal(policy), context=document_of(type(first)(first.pcr0, first.pcr1, second.pcr2)))
    assert _serious(policy) == []


def test_two_roles_have_an_image_each(stack, host, image, policy_of, document_of):
    one, other = image("app"), image("tool")
    second = iam.Role(stack, "Second", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    key = EnclaveKey(stack, "Key")
    assert key.grants.decrypt(host, one).success
    assert key.grants.decrypt(second, other).success
    policy = policy_of(stack)
    roles = [item["Principal"]["AWS"] for item in policy["Statement"][:2]]
    found = [[_allowed(policy, role, context=document_of(each.reference_values.current)) for each in (one, other)] for role in roles]
    assert found == [[True, False], [False, True]]


def test_a_rollover_says_its_date_and_kms_keeps_it(stack, host, image, policy_of, document_of):
    both = image("new", retiring={"old": DATE})
    EnclaveKey(stack, "Key", images=[both], host_role=host)
    policy = policy_of(stack)
    assert _openings(policy) == ["AttestedEnclave0", "AttestedEnclave1Until20300101T000000Z"]
    new, old = (document_of(one) for one in both.reference_values.sets())
    role = _principal(policy)
    assert [_allowed(policy, role, context=one) for one in (new, old)] == [True, True]
    assert [_allowed(policy, role, context={**one, **LATE}) for one in (new, old)] == [True, False]
    assert _allowed(policy, role, context={**old, "aws:CurrentTime": "2030-01-01T00:00:00Z"})
    assert _serious(policy) == []


def test_a_signed_image_on_a_proven_role(stack, host, image, policy_of, document_of):
    signed = image("app", signed=True)
    EnclaveKey(stack, "Key", images=[signed], host_role=host, attest_host_role=True)
    policy = policy_of(stack)
    known = f"arn:aws:iam::{ACCOUNT}:role/host"
    assert pcr3(known).hex() in json.dumps(policy), "the role's explicit name makes PCR3 known at synthesis"
    one, role = signed.reference_values.current, _principal(policy)
    assert _allowed(policy, role, context=document_of(one, role_arn=known))
    assert not _allowed(policy, role, context=document_of(one, role_arn=f"{known}2"))
    assert not _allowed(policy, role, context=document_of(one))
    unsigned = type(one)(one.pcr0, one.pcr1, one.pcr2)
    assert not _allowed(policy, role, context=document_of(unsigned, role_arn=known))
    assert {one["Sid"] for one in policy["Statement"]} >= {"DenyUnlessPcr3", "DenyUnlessPcr8"}
    assert _serious(policy) == []
    Template.from_stack(stack).resource_count_is("Custom::RolePcr3", 0)


def test_an_open_key_belongs_to_its_administrator_alone(stack, host, image, policy_of):
    administrator = f"arn:aws:iam::{ACCOUNT}:role/security"
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host, sealed=False, administrator_arn=administrator)
    # KMS's check wants that who deploys may change the policy, and that is another one here.
    Template.from_stack(stack).has_resource_properties("AWS::KMS::Key", {"BypassPolicyLockoutSafetyCheck": True})
    policy = policy_of(stack)
    assert _allowed(policy, administrator, "PutKeyPolicy")
    assert _allowed(policy, administrator, "UpdateAlias")
    for other in (_principal(policy), f"arn:aws:iam::{ACCOUNT}:role/any"):
        assert not evaluate(policy, AccessRequest("kms:PutKeyPolicy", other, ACCOUNT)).delegated_to_iam
    for action in ("CreateGrant", "ReEncryptFrom", "ReplicateKey", "Decapsulate", "Decrypt"):
        assert not _allowed(policy, administrator, action)
    assert [one.id for one in analyze_key_policy(policy, account=ACCOUNT)] == ["policy-change", "alias-move"]
    assert key.findings() == []


def test_data_owners_of_any_account_may_encrypt_and_no_more(stack, host, image, policy_of):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host, data_owners=[OWNER])
    assert key.grants.encrypt(iam.OrganizationPrincipal("o-1234567890")).success
    policy = policy_of(stack)
    member = "arn:aws:iam::888888888888:role/x"
    assert _allowed(policy, OWNER, "Encrypt")
    assert _allowed(policy, member, "Encrypt", {"aws:PrincipalOrgID": "o-1234567890"})
    assert not _allowed(policy, member, "Encrypt", {"aws:PrincipalOrgID": "o-0000000000"})
    for action in ("Decrypt", "GenerateDataKey", "ReEncryptFrom", "CreateGrant", "PutKeyPolicy"):
        assert not _allowed(policy, OWNER, action)
    assert _serious(policy) == []


# Sealing and deployment


def test_sealed_is_the_default_and_an_alias_stays_where_it_is(stack, host, image, policy_of):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    key.add_alias("data")
    template = Template.from_stack(stack)
    template.has_resource("AWS::KMS::Alias", {"Properties": {"AliasName": "alias/data"}, "DeletionPolicy": "Retain"})
    template.has_resource(
        "AWS::KMS::Key",
        {"Properties": {"BypassPolicyLockoutSafetyCheck": True}, "DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"},
    )
    policy = policy_of(stack)
    for action in ("PutKeyPolicy", "UpdateAlias", "DeleteAlias"):
        decision = evaluate(policy, AccessRequest(f"kms:{action}", f"arn:aws:iam::{ACCOUNT}:role/admin", ACCOUNT))
        assert (decision.reason, decision.delegated_to_iam) == ("explicit deny", False)
    # Else a first deployment that fails could not be rolled back.
    deployer = AccessRequest(
        "kms:ScheduleKeyDeletion", f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-cfn-exec-role-{ACCOUNT}-eu-west-1", ACCOUNT
    )
    assert evaluate(policy, deployer).delegated_to_iam


@pytest.mark.parametrize("sealed", [True, False])
def test_that_a_policy_may_change_is_acknowledged_of_an_unsealed_key_alone(stack, host, image, sealed):
    """On a sealed one the rules must still find whoever opens it by an escape hatch."""
    administrator = None if sealed else f"arn:aws:iam::{ACCOUNT}:role/security"
    EnclaveKey(stack, "Key", images=[image("app")], host_role=host, sealed=sealed, administrator_arn=administrator)
    beside = (Path(stack.node.root.synth().directory) / "S.metadata.json").read_text()
    assert [f"nitrokit/{id}" in beside for id in ("policy-change", "alias-move")] == [not sealed] * 2


def test_a_key_that_cdk_deploy_may_change_keeps_kms_own_check(stack, host, image, policy_of):
    role = EnclaveKey.deployment_role_arn(stack)
    EnclaveKey(stack, "Key", images=[image("app")], host_role=host, sealed=False, administrator_arn=role)
    Template.from_stack(stack).has_resource_properties("AWS::KMS::Key", {"BypassPolicyLockoutSafetyCheck": False})
    assert _allowed(policy_of(stack), f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-cfn-exec-role-{ACCOUNT}-eu-west-1", "PutKeyPolicy")


def test_a_stack_without_a_deployment_role_says_so(tmp_path):
    bare = cdk.Stack(cdk.App(outdir=str(tmp_path)), "Bare", synthesizer=cdk.LegacyStackSynthesizer())
    with pytest.raises(PolicyError) as caught:
        EnclaveKey.deployment_role_arn(bare)
    assert caught.value.code == "policy/no-deployment-role"


# PCR3 at deployment


def test_a_role_without_a_name_is_measured_at_deployment(stack, image, policy_of, document_of):
    anonymous = iam.Role(stack, "Anonymous", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=anonymous, attest_host_role=True)
    key.grants.decrypt(anonymous, image("tool"), attest_role=True)
    template = Template.from_stack(stack)
    template.resource_count_is("Custom::RolePcr3", 2)
    template.resource_count_is("AWS::Lambda::Function", 1)
    template.has_resource_properties("Custom::RolePcr3", {"RoleArn": {"Fn::GetAtt": [Match.string_like_regexp("Anonymous"), "Arn"]}})
    policy = policy_of(stack)
    assert _serious(policy) == []
    assert not _allowed(policy, _principal(policy), context=document_of(image("app").reference_values.current)), "PCR3 is demanded"


@pytest.mark.parametrize("known", [{"account": ACCOUNT}, {"region": "eu-west-1"}, {}])
def test_a_role_whose_account_or_partition_only_the_deployment_knows_is_measured_then(tmp_path, image, known):
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path)), "S", env=cdk.Environment(**known))
    named = iam.Role(stack, "Named", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), role_name="host")
    EnclaveKey(stack, "Key", images=[image("app")], host_role=named, attest_host_role=True)
    template = Template.from_stack(stack)
    (role,) = template.find_resources("AWS::IAM::Role", {"Properties": {"RoleName": "host"}})
    template.has_resource_properties("Custom::RolePcr3", {"RoleArn": {"Fn::GetAtt": [role, "Arn"]}})
    assert "Pcr3" in json.dumps(next(iter(template.find_resources("AWS::KMS::Key").values()))["Properties"]["KeyPolicy"])


def test_a_role_by_an_arn_that_only_the_deployment_knows_is_measured_then(stack, image):
    theirs = iam.Role.from_role_arn(stack, "Theirs", cdk.Fn.import_value("HostRoleArn"))
    EnclaveKey(stack, "Key", images=[image("app")], host_role=theirs, attest_host_role=True)
    Template.from_stack(stack).has_resource_properties("Custom::RolePcr3", {"RoleArn": {"Fn::ImportValue": "HostRoleArn"}})


@pytest.mark.parametrize(("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
def test_a_named_role_is_measured_with_the_partition_of_its_region(tmp_path, image, region, partition):
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path)), "S", env=cdk.Environment(account=ACCOUNT, region=region))
    named = iam.Role(stack, "Named", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), role_name="host")
    EnclaveKey(stack, "Key", images=[image("app")], host_role=named, attest_host_role=True)
    assert pcr3(f"arn:{partition}:iam::{ACCOUNT}:role/host").hex() in json.dumps(Template.from_stack(stack).to_json())


def test_the_function_measures_as_the_core_does(monkeypatch):
    from types import SimpleNamespace

    from nitrokit.cdk.bundling import lambda_folder

    sent = []
    names = ("event", "context", "status", "data", "physical_id")
    answer = SimpleNamespace(send=lambda *values, reason: sent.append({**dict(zip(names, values, strict=True)), "reason": reason}))
    monkeypatch.setitem(sys.modules, "cfnresponse", answer)
    space: dict[str, object] = {}
    source = (lambda_folder("measure_role") / "index.py").read_text()
    exec(compile(source, "index.py", "exec"), space)
    role = f"arn:aws-us-gov:iam::{ACCOUNT}:role/Some+name=,.@-_1"
    for kind, arn in (("Create", role), ("Update", f"arn:aws:iam::{ACCOUNT}:role/path/x"), ("Delete", "nothing"), ("Create", f"{role}\n")):
        space["handler"]({"RequestType": kind, "ResourceProperties": {"RoleArn": arn}}, None)  # type: ignore[operator]
    assert [one["status"] for one in sent] == ["SUCCESS", "FAILED", "SUCCESS", "FAILED"]
    assert sent[0]["data"] == {"Pcr3": pcr3(role).hex()}
    assert "path" in sent[1]["reason"]
    assert len(source) < 4096, "CloudFormation's limit for inline code"


def test_a_role_that_cannot_be_measured_is_refused(stack, image):
    pathed = iam.Role(stack, "Pathed", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), role_name="x", path="/a/")
    key = EnclaveKey(stack, "Key")
    user = iam.ArnPrincipal(f"arn:aws:iam::{ACCOUNT}:user/x")
    for role, code in ((pathed, "policy/role-path"), (iam.AccountPrincipal(ACCOUNT), "policy/not-a-role"), (user, "measurements/role-arn")):
        with pytest.raises(NitrokitError) as caught:
            key.grants.decrypt(role, image("app"), attest_role=True)
        assert caught.value.code == code
    unnamed = iam.Role(stack, "Unnamed", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), path="/a/")
    with pytest.raises(NitrokitError, match="role's path"):
        key.grants.decrypt(unnamed, image("tool"), attest_role=True)


# What is refused


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda key, role: key.grant_decrypt(role), "without attestation"), (lambda key, role: key.grant(role, "kms:Decrypt"), "no attestation condition"),
        (lambda key, role: key.grant_encrypt(role), "ReEncrypt"), (lambda key, role: key.grant_encrypt_decrypt(role), "by itself"), (lambda key, role: key.grant_sign(role), "signs"),
        (lambda key, role: key.grant_verify(role), "signs"), (lambda key, role: key.grant_sign_verify(role), "signs"), (lambda key, role: key.grant_generate_mac(role), "MACs"),
        (lambda key, role: key.grant_verify_mac(role), "MACs"), (lambda key, role: key.add_to_resource_policy(iam.PolicyStatement(actions=["kms:*"], resources=["*"])), "measurements alone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("imported", [False, True])
def test_unconditioned_grants_are_refused_with_the_alternative(stack, host, image, call, words, imported):
    arn = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    key = EnclaveKey.from_key_arn(stack, "Key", arn) if imported else EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    with pytest.raises(PolicyError) as caught:
        call(key, host)
    assert caught.value.code == "policy/unconditioned-grant"
    assert words in str(caught.value)
    assert "key.grants.decrypt(role, image)" in str(caught.value)


def test_an_integration_that_asks_for_a_grant_is_told_too(stack, host, image):
    """Out of JavaScript, as CDK's own constructs call it."""
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    bucket = s3.Bucket(stack, "Bucket", encryption_key=key)
    with pytest.raises(RuntimeError, match="policy/unconditioned-grant"):
        bucket.grant_read(host)
    assert kms.Alias(stack, "Alias", alias_name="alias/x", target_key=key).alias_target_key is key


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        ({"images": []}, "no-measurements"), ({"images": [1]}, "no-host-role"), ({"multi_region": True}, "multi-region"), ({"sealed": False}, "no-administrator"),
    ],
)  # fmt: skip
def test_keys_that_would_not_hold_what_they_promise_are_refused(stack, arguments, slug):
    with pytest.raises(PolicyError) as caught:
        EnclaveKey(stack, "Key", **arguments)
    assert caught.value.slug == slug


def test_grants_to_everybody_or_of_nothing_are_refused(stack, host, image):
    key = EnclaveKey(stack, "Key")
    with pytest.raises(PolicyError, match="without an image"):
        key.grants.decrypt(host)
    for grantee in (iam.AnyPrincipal(), iam.ServicePrincipal("ec2.amazonaws.com"), iam.OrganizationPrincipal("o-1234567890")):
        with pytest.raises(PolicyError) as caught:
            key.grants.decrypt(grantee, image("app"))
        assert caught.value.slug == "grantee"
    with pytest.raises(PolicyError):
        key.grants.encrypt(iam.AnyPrincipal())


@pytest.mark.parametrize(("owner", "acknowledged"), [(iam.OrganizationPrincipal("o-1234567890"), True), (iam.ArnPrincipal(OWNER), False)])
def test_that_anybody_may_encrypt_is_acknowledged_only_where_a_condition_knows_the_owners(stack, host, image, owner, acknowledged):
    """On other keys the rule must still find whoever opens them for everybody by an escape hatch."""
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    key.grants.encrypt(owner)
    beside = Path(stack.node.root.synth().directory) / "S.metadata.json"
    assert ("nitrokit/unauthenticated-ciphertext" in beside.read_text()) is acknowledged


def test_an_organisation_has_no_side_of_its_own_of_an_imported_key(stack):
    key = EnclaveKey.from_key_arn(stack, "Key", f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab")
    assert not key.grants.encrypt(iam.OrganizationPrincipal("o-1234567890")).success
    assert Template.from_stack(stack).to_json().get("Resources", {}) == {}


@pytest.mark.parametrize(
    "owner", ["bob", "*", f"arn:aws:iam::{ACCOUNT}:role/*", "arn:aws:sts::123456789012:assumed-role/x/?", "AIDACKCEVSQ6C2EXAMPLE", "a"]
)
def test_owners_that_kms_would_refuse_at_deployment_are_refused_now(stack, host, image, owner):
    with pytest.raises(PolicyError) as caught:
        EnclaveKey(stack, "Key", images=[image("app")], host_role=host, data_owners=[owner])
    assert caught.value.slug == "grantee"


@pytest.mark.parametrize("owner", ["bob", f"arn:aws:iam::{ACCOUNT}:role/*"])
def test_a_condition_makes_no_owner_of_a_name_that_kms_would_refuse(stack, owner):
    """It does of everybody: those whom it describes."""
    who = iam.ArnPrincipal(owner).with_conditions({"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}})
    with pytest.raises(PolicyError) as caught:
        EnclaveKey(stack, "Key").grants.encrypt(who)
    assert caught.value.slug == "grantee"


def test_what_waits_for_a_grant_waits_for_the_policy_that_holds_it(stack, host, image):
    waiting = cdk.CfnResource(stack, "Waiting", type="AWS::SNS::Topic")
    key = EnclaveKey(stack, "Key")
    for grant in (key.grants.decrypt(host, image("app")), key.grants.encrypt(iam.ArnPrincipal(OWNER))):
        grant.apply_before(waiting)
    ((logical, _),) = Template.from_stack(stack).find_resources("AWS::KMS::Key").items()
    Template.from_stack(stack).has_resource("AWS::SNS::Topic", {"DependsOn": [logical]})


def test_what_an_aspect_makes_of_the_policy_is_what_is_analysed(stack, host, image):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)

    @jsii.implements(cdk.IAspect)
    class BreakGlass:
        def visit(self, node):
            if isinstance(node, kms.CfnKey):
                policy = stack.resolve(node.key_policy)
                owner = {
                    "Sid": "ChangePolicy",
                    "Effect": "Allow",
                    "Principal": {"AWS": OWNER},
                    "Action": "kms:PutKeyPolicy",
                    "Resource": "*",
                }
                node.key_policy = {**policy, "Statement": [*policy["Statement"][:1], owner]}

    assert key.findings() == []
    cdk.Aspects.of(stack).add(BreakGlass())
    with pytest.raises(RuntimeError, match="policy-change: ChangePolicy"):
        Template.from_stack(stack)


def test_an_alias_may_be_a_token(stack, host, image):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    names = [cdk.CfnParameter(stack, name).value_as_string for name in ("One", "Other")]
    for name in names:
        key.add_alias(name)
    found = Template.from_stack(stack).find_resources("AWS::KMS::Alias").values()
    assert [one["Properties"]["AliasName"] for one in found] == [{"Fn::Join": ["", ["alias/", {"Ref": name}]]} for name in ("One", "Other")]


@pytest.mark.parametrize("administrator", ["*", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:iam::{ACCOUNT}:role/*"])
@pytest.mark.parametrize("sealed", [True, False])
def test_an_administrator_is_one_role(stack, host, image, administrator, sealed):
    """Whoever may change the policy may open everything: everybody, or whomever IAM lets, is no administrator."""
    EnclaveKey(stack, "Key", images=[image("app")], host_role=host, sealed=sealed, administrator_arn=administrator)
    with pytest.raises(RuntimeError, match="policy/administrator"):
        Template.from_stack(stack)


@pytest.mark.parametrize(
    "condition",
    [
        {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR1": "00" * 48}},
        {"StringEquals": {"kms:recipientattestation:imagesha384": "ab" * 48}},
        {"dateLessThanEquals": {"AWS:CurrentTime": "2026-12-01T00:00:00Z"}},
    ],
)
def test_a_principals_own_condition_is_not_replaced(stack, host, image, condition):
    """A set that retires brings its date, an image its PCRs: which of two is meant is not for us to guess."""
    with pytest.raises(PolicyError) as caught:
        EnclaveKey(stack, "Key").grants.decrypt(iam.PrincipalWithConditions(host, condition), image("new", retiring={"old": DATE}))
    assert caught.value.slug == "condition-clash"


def test_a_principals_other_conditions_stand_beside(stack, host, image, policy_of):
    own = {"DateLessThan": {"aws:CurrentTime": "2026-12-01T00:00:00Z"}, "StringEqualsIgnoreCase": {"aws:PrincipalTag/team": "a"}}
    EnclaveKey(stack, "Key").grants.decrypt(iam.PrincipalWithConditions(host, own), image("new", retiring={"old": DATE}))
    for statement in policy_of(stack)["Statement"][:2]:
        assert statement["Condition"]["DateLessThan"] == own["DateLessThan"]
        assert statement["Condition"]["StringEqualsIgnoreCase"]["aws:PrincipalTag/team"] == "a"


def test_a_key_without_a_grant_does_not_synthesise(stack):
    EnclaveKey(stack, "Key")
    with pytest.raises(RuntimeError, match="policy/no-measurements") as told:
        Template.from_stack(stack)
    assert "[S/Key] a key without measurements opens for nobody" in str(told.value)
    assert (str(told.value).count("policy/no-measurements"), "Resolution error" in str(told.value)) == (1, False)


def test_a_key_without_a_grant_whose_validation_is_skipped_has_a_policy_that_kms_refuses(stack):
    EnclaveKey(stack, "Key")
    assembly = stack.node.root.synth(skip_validation=True)
    (key,) = assembly.get_stack_by_name("S").template["Resources"].values()
    assert key["Properties"]["KeyPolicy"]["Statement"] == [{"Sid": "policy/no-measurements"}]


@pytest.mark.parametrize(
    ("condition", "finding"),
    [({"StringEquals": {"kms:RecipientAttestation:PCR8": "ab" * 48}}, "misplaced-condition"), ({"StringIs": {"aws:PrincipalTag/team": "a"}}, "unknown-operator")],
)  # fmt: skip
def test_a_condition_that_does_not_mean_what_it_seems_to_does_not_synthesise(stack, host, image, condition, finding):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    key.grants.encrypt(iam.PrincipalWithConditions(iam.ArnPrincipal(OWNER), condition))
    assert [one.id for one in key.findings() if one.severity >= Severity.MEDIUM] == [finding]
    with pytest.raises(RuntimeError, match=f"{finding}: DataOwnersEncrypt"):
        Template.from_stack(stack)


def test_a_policy_that_may_become_too_large_does_not_synthesise(stack, host, image):
    key = EnclaveKey(stack, "Key")
    key.grants.decrypt(host, *(image(f"app{number}") for number in range(15)))
    assert key.findings() == []
    key.grants.decrypt(host, *(image(f"more{number}") for number in range(15)))
    with pytest.raises(PolicyError, match="larger than KMS takes"):
        key.findings()
    with pytest.raises(RuntimeError, match="policy/too-large"):
        Template.from_stack(stack)


# Imported keys, other accounts


@pytest.mark.parametrize(
    "arn",
    ["alias/x", "arn:aws:kms:eu-west-1:123456789012:alias/x", "arn:aws:kms:eu-west-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab", "arn:aws:s3:::bucket"],
)  # fmt: skip
def test_only_a_keys_own_arn_is_imported(stack, arn):
    with pytest.raises(PolicyError) as caught:
        EnclaveKey.from_key_arn(stack, "Key", arn)
    assert caught.value.code == "policy/key-arn"


def test_an_imported_key_writes_the_principals_side_with_its_conditions(stack, host, image):
    arn = "arn:aws:kms:eu-west-1:999999999999:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    key = EnclaveKey.from_key_arn(stack, "Key", arn)
    assert (key.key_arn, key.env.account) == (arn, "999999999999")
    assert key.grants.decrypt(host, image("app")).success
    assert not key.grants.encrypt(iam.ArnPrincipal(OWNER)).success, "nothing of it is in this stack"
    (policy,) = Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Resource"] == arn
    condition = statement["Condition"]["StringEqualsIgnoreCase"]
    assert condition["kms:RecipientAttestation:ImageSha384"] == image("app").reference_values.current.pcr0.hex()


def test_a_host_of_another_account_gets_its_own_side_too(tmp_path, image):
    app = cdk.App(outdir=str(tmp_path))
    theirs = cdk.Stack(app, "Theirs", env=cdk.Environment(account="999999999999", region="eu-west-1"))
    ours = cdk.Stack(app, "Ours", env=cdk.Environment(account=ACCOUNT, region="eu-west-1"))
    role = iam.Role.from_role_arn(theirs, "Host", "arn:aws:iam::999999999999:role/host")
    key = EnclaveKey(ours, "Key")
    key.grants.decrypt(iam.Role.from_role_arn(ours, "Foreign", "arn:aws:iam::999999999999:role/host"), image("app"))
    imported = EnclaveKey.from_key_arn(theirs, "Key", f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab")
    assert imported.grants.decrypt(role, image("app")).success
    assert "999999999999:role/host" in json.dumps(Template.from_stack(ours).find_resources("AWS::KMS::Key"))
    assert Template.from_stack(theirs).find_resources("AWS::IAM::Policy")


@pytest.mark.parametrize(("account", "arn"), [(ACCOUNT, f":kms:eu-west-1:{ACCOUNT}:key/*"), (None, ":kms:eu-west-1:*:key/*")])
def test_a_grant_writes_the_other_accounts_side_in_its_stack(tmp_path, image, account, arn):
    """KMS demands both sides across accounts. Conditions stand in both; the key's id is known in its own stack alone."""
    app = cdk.App(outdir=str(tmp_path))
    ours = cdk.Stack(app, "Ours", env=cdk.Environment(account=account, region="eu-west-1"))
    theirs = cdk.Stack(app, "Theirs", env=cdk.Environment(account="999999999999", region="eu-west-1"))
    role, owner = (iam.Role(theirs, one, assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), role_name=one) for one in ("host", "owner"))
    key = EnclaveKey(ours, "Key")
    key.grants.decrypt(role, image("app"))
    key.grants.encrypt(owner)
    policy = json.dumps(Template.from_stack(ours).find_resources("AWS::KMS::Key"))
    assert ":iam::999999999999:role/host" in policy and ":iam::999999999999:role/owner" in policy
    policies = Template.from_stack(theirs).find_resources("AWS::IAM::Policy").values()
    sides = {one["Properties"]["Roles"][0]["Ref"][:4]: one["Properties"]["PolicyDocument"]["Statement"][0] for one in policies}
    assert set(sides["host"]["Condition"]["StringEqualsIgnoreCase"]) == {
        f"kms:RecipientAttestation:{one}" for one in ("ImageSha384", "PCR1", "PCR2")
    }
    assert (sides["owne"]["Action"], "Condition" in sides["owne"]) == (["kms:DescribeKey", "kms:Encrypt", "kms:GetPublicKey"], False)
    assert all(one["Resource"]["Fn::Join"][1][-1] == arn for one in sides.values())
    assert AwsSolutionsChecks(app).validate_scope(app).violations == [], "the wildcard is explained"


@pytest.mark.parametrize(
    ("principal", "named"),
    [(lambda: iam.AccountPrincipal("999999999999"), ":iam::999999999999:root"), (iam.AccountRootPrincipal, ":root")],
    ids=["another account", "this account"],
)
def test_a_whole_account_is_a_data_owner_and_has_no_side_of_its_own(stack, host, image, principal, named):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    key.grants.encrypt(principal())
    template = Template.from_stack(stack)
    (policy,) = (one["Properties"]["KeyPolicy"]["Statement"] for one in template.find_resources("AWS::KMS::Key").values())
    (owners,) = (one for one in policy if one["Sid"] == "DataOwnersEncrypt")
    assert named in str(owners["Principal"])
    template.resource_count_is("AWS::IAM::Policy", 0)


def test_a_grant_in_one_account_needs_no_other_side(stack, host, image):
    key = EnclaveKey(stack, "Key", images=[image("app")], host_role=host)
    key.grants.encrypt(iam.Role(stack, "Owner", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com")))
    Template.from_stack(stack).resource_count_is("AWS::IAM::Policy", 0)


def test_two_stacks_share_a_key(tmp_path, image):
    app = cdk.App(outdir=str(tmp_path))
    environment = cdk.Environment(account=ACCOUNT, region="eu-west-1")
    first, second = (cdk.Stack(app, name, env=environment) for name in ("First", "Second"))
    role = iam.Role(first, "Host", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    key = EnclaveKey(first, "Key", images=[image("app")], host_role=role)
    cdk.CfnOutput(second, "Arn", value=key.key_arn)
    assert "Fn::ImportValue" in json.dumps(Template.from_stack(second).to_json())


def test_cfn_lint_finds_no_error(stack, host, image):
    EnclaveKey(stack, "Key", images=[image("new", retiring={"old": DATE})], host_role=host, data_owners=[OWNER]).add_alias("data")
    anonymous = iam.Role(stack, "Anonymous", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    open_key = EnclaveKey(stack, "Open", sealed=False, administrator_arn=EnclaveKey.deployment_role_arn(stack))
    open_key.grants.decrypt(anonymous, image("signed", signed=True), attest_role=True)
    template = Path(stack.node.root.synth().directory) / "S.template.json"
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--non-zero-exit-code", "error", str(template)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nag_finds_nothing(stack, image):
    from cdk_nag import AwsSolutionsChecks

    anonymous = iam.Role(stack, "Anonymous", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    EnclaveKey(stack, "Key", images=[image("app")], host_role=anonymous, attest_host_role=True, data_owners=[OWNER])
    assert [one.rule_name for one in AwsSolutionsChecks(stack.node.root).validate_scope(stack.node.root).violations] == []
