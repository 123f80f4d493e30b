"""Deployed keys, by the local KMS: what somebody changed by hand is found by somebody who may only read."""

import json

import pytest

from nitrokit.core.intrinsics import resolve
from nitrokit.core.key_policy import build_key_policy
from nitrokit.gate.key_policies import KeyPolicy, compare_key_policy
from nitrokit.gate.keys import Key, compare_key, keys_of
from nitrokit.gate.report import Outcome, Place
from nitrokit.gate.stack import read_stack

from .conftest import FOREIGN, HOST, NEW, NOW, OLD, locked, rules

ADMIN = "arn:aws:iam::123456789012:role/administrator"


def _policy(*sets, **more):
    return build_key_policy(measurements=list(sets), host_role_arn=HOST, account="123456789012", **more)


def _by_hand(local, key_id):
    """moto's key itself: whoever got round the policy."""
    return _backend(local).keys[key_id]


def _backend(local):
    from moto.kms.models import kms_backends

    return kms_backends[local.account][local.region]


def test_a_key_as_synthesised_agrees_and_reading_suffices(reader, make_key):
    policy = _policy(NEW)
    (found,) = compare_key(reader, Key(make_key(policy), policy), [locked()], NOW)
    assert (found.rule_id, found.image) == ("agrees", "hello")


def test_a_rollover_is_planned_before_its_date_and_drift_after(reader, make_key):
    policy = _policy(NEW, OLD)
    key = Key(make_key(policy), policy)
    (planned,) = compare_key(reader, key, [locked(NEW, (OLD, 3))], NOW)
    assert (planned.rule_id, planned.until) == ("planned-rollover", locked(NEW, (OLD, 3)).values.retiring[0].retire_after)
    assert rules(compare_key(reader, key, [locked(NEW, (OLD, -3))], NOW)) == ["set-past-date"]
    assert rules(compare_key(reader, key, [locked()], NOW)) == ["unknown-set"]


def _without(policy, sid):
    return {**policy, "Statement": [one for one in policy["Statement"] if one["Sid"] != sid]}


def _with(policy, **statement):
    return {**policy, "Statement": [*policy["Statement"], {"Effect": "Allow", "Resource": "*", **statement}]}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda policy: _with(policy, Principal={"AWS": "*"}, Action="kms:Decrypt"), {"policy-edited"}),
        (lambda policy: _with(_without(policy, "DenyUnlessPcr0"), Principal={"AWS": HOST}, Action="kms:Decrypt"), {"policy-edited"}),
        (lambda policy: _without(policy, "DenyWhatNoAttestationGates"), {"policy-edited"}),
        (lambda policy: _with(policy, Principal={"AWS": ADMIN}, Action="kms:DisableKey"), {"policy-edited"}),
        (lambda policy: _policy(NEW, FOREIGN), {"policy-edited", "unknown-set"}),
        (lambda policy: _policy(FOREIGN), {"policy-edited", "unknown-set"}),
        (lambda policy: json.loads(json.dumps(policy).replace(HOST, ADMIN)), {"policy-edited"}),
    ],
)  # fmt: skip
def test_a_policy_edited_by_hand(local, reader, make_key, edit, expected):
    policy = _policy(NEW)
    key_id = make_key(policy)
    _by_hand(local, key_id).policy = json.dumps(edit(policy))
    found = list(compare_key(reader, Key(key_id, policy), [locked()], NOW))
    assert expected <= set(rules(found)), rules(found)
    assert next(one for one in found if one.rule_id == "policy-edited").details


def test_without_a_template_the_ways_round_are_found_and_a_harmless_edit_is_not(local, reader, make_key):
    policy = _policy(NEW)
    key_id = make_key(policy)
    opened = _with(policy, Sid="Back", Principal={"AWS": HOST}, Action="kms:Decrypt")
    opened["Statement"] = [one for one in opened["Statement"] if not one["Sid"].startswith("DenyUnless")]
    _by_hand(local, key_id).policy = json.dumps(opened)
    found = list(compare_key(reader, Key(key_id), [locked()], NOW))
    assert "policy-finding" in rules(found)
    assert any("unattested in Back" in one.reason for one in found)
    _by_hand(local, key_id).policy = json.dumps({**policy, "Statement": list(reversed(policy["Statement"]))})
    assert rules(compare_key(reader, Key(key_id, policy), [locked()], NOW)) == ["agrees"], "order means nothing"


def test_a_template_that_cannot_be_resolved_is_told(reader, make_key):
    unresolved = _with(_policy(NEW), Principal={"AWS": resolve({"Fn::GetAtt": ["Custom", "Role"]}, lambda _: None)}, Action="kms:Encrypt")
    (found,) = compare_key(reader, Key(make_key(_policy(NEW)), unresolved), [locked()], NOW)
    assert (found.rule_id, "were not compared" in found.reason) == ("agrees", True)


def test_an_unsealed_key_passes_only_where_its_template_says_so(reader, make_key):
    policy = _policy(NEW, sealed=False, administrator_arn=ADMIN)
    policy["Statement"].append(
        {
            "Effect": "Allow",
            "Principal": {"AWS": "123456789012"},
            "Action": ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants"],
            "Resource": "*",
        }
    )
    key_id = make_key(policy)
    assert rules(compare_key(reader, Key(key_id, policy), [locked()], NOW)) == ["agrees"]
    assert rules(compare_key(reader, Key(key_id), [locked()], NOW)) == ["agrees", "policy-finding"]


def test_a_grant_is_drift_even_where_a_deny_disarms_it(local, reader, make_key):
    key_id = make_key(_policy(NEW))
    _by_hand(local, key_id).add_grant("by-hand", HOST, ["Decrypt"], {}, "")
    found = list(compare_key(reader, Key(key_id, _policy(NEW)), [locked()], NOW))
    (grant,) = [one for one in found if one.rule_id == "grant"]
    assert "Decrypt" in grant.reason
    assert HOST in grant.reason


def test_a_disabled_key(local, reader, make_key):
    key_id = make_key(_policy(NEW))
    _by_hand(local, key_id).key_state = "Disabled"
    assert "key-state" in rules(compare_key(reader, Key(key_id, _policy(NEW)), [locked()], NOW))


def test_a_key_that_cannot_be_read_is_unreachable_and_no_pass(local, reader, make_key):
    closed = _without(_policy(NEW), "Administration")
    for key in (Key(make_key(closed)), Key("alias/nobody"), Key("00000000-0000-0000-0000-000000000000")):
        (found,) = compare_key(reader, key, [locked()], NOW)
        assert found.rule_id == "unreachable", found.reason


def test_a_key_for_nobody_and_one_in_another_form_are_told(reader, make_key):
    locked_out = _without(_policy(NEW), "AttestedEnclave0")
    assert rules(compare_key(reader, Key(make_key(locked_out)), [locked()], NOW)) == ["current-missing"]
    listed = _policy(NEW)
    listed["Statement"][0]["Condition"]["StringEqualsIgnoreCase"]["kms:RecipientAttestation:ImageSha384"] = [NEW.pcr0.hex(), OLD.pcr0.hex()]
    assert "policy-form" in rules(compare_key(reader, Key(make_key(listed)), [locked()], NOW))


def test_a_policy_that_nobody_here_understands_is_drift():
    """KMS takes what it takes: what cannot be read may open everything. The local KMS would not even hand it out."""
    policy = {**_policy(NEW), "Statement": [*_policy(NEW)["Statement"], {"Effect": "Allow", "Novelty": "x"}]}
    (found,) = compare_key_policy(KeyPolicy(Place.KEY, "key", policy, "123456789012"), [locked()], NOW)
    assert (found.rule_id, found.outcome) == ("policy-form", Outcome.DRIFT)


def _key_stack(policy):
    return {
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}}},
        "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}},
        "Plain": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": _plain_policy()}},
        "Alias": {"Type": "AWS::KMS::Alias", "Properties": {"AliasName": "alias/enclave", "TargetKeyId": {"Ref": "Key"}}},
    }  # fmt: skip


def _plain_policy():
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}]}


def test_a_stacks_keys_are_found_with_their_resolved_policy_and_a_replaced_alias_is_told(local, reader, deploy, make_key):
    text = json.dumps(_policy(NEW)).replace("123456789012:root", "${AWS::AccountId}:root")
    policy = json.loads(text.replace(f'"{HOST}"', '{"Fn::GetAtt": ["Role", "Arn"]}'))
    for one in policy["Statement"]:
        if one["Sid"] == "Administration":
            one["Principal"] = {"AWS": {"Fn::Sub": one["Principal"]["AWS"]}}
    name = deploy("keys", _key_stack(policy))
    stack = read_stack(local.client("cloudformation"), name)
    (key,) = keys_of(stack)
    assert key.aliases == ("alias/enclave",)
    assert rules(compare_key(reader, key, [locked()], NOW)) == ["agrees"]
    backend = _backend(local)
    backend.update_alias(target_key_id=make_key(_plain_policy()), alias_name="alias/enclave")
    moved = list(compare_key(reader, key, [locked()], NOW))
    assert rules(moved) == ["agrees", "alias-moved"]
    by_alias = list(compare_key(reader, Key("alias/enclave"), [locked()], NOW))
    assert "policy-finding" in rules(by_alias), "the key behind the alias is looked at, whichever it is"
    backend.delete_alias("alias/enclave")
    assert "alias-moved" in rules(compare_key(reader, key, [locked()], NOW))
