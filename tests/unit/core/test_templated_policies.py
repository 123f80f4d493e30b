"""A key's policy in a template, as each outcome of the template's conditions makes it."""

import pytest

from nitrokit.core.intrinsics import Environment
from nitrokit.core.key_policy import PolicyError, analyze_key_policy, build_key_policy
from nitrokit.core.key_policy.templated import ENCLAVE_KEY, MAX_ALTERNATIVES, promises_attestation, templated_policies
from nitrokit.core.measurements import Measurements, digest

HERE = Environment("111122223333", "aws-cn", "cn-north-1")
ONE = Measurements(digest([b"one"]), digest([b"boot"]), digest([b"app"]))
POLICY = build_key_policy(
    measurements=[ONE], host_role_arn="arn:aws-cn:iam::111122223333:role/host", account="111122223333", partition="aws-cn"
)
NO_VALUE = {"Ref": "AWS::NoValue"}


def _many(number):
    return {"Statement": [{"Fn::If": [f"C{one}", {"Sid": "x"}, NO_VALUE]} for one in range(number)]}


def test_a_policy_without_conditions_is_itself():
    (found,) = templated_policies(POLICY, HERE)
    assert (found.policy, found.when) == (POLICY, "")


@pytest.mark.parametrize("nothing", [None, NO_VALUE])
def test_no_policy_is_kms_default_policy(nothing):
    closed, opened = templated_policies({"Fn::If": ["Production", POLICY, nothing]}, HERE)
    assert (closed.when, opened.when) == ("Production", "not Production")
    assert not [one for one in analyze_key_policy(closed.policy, account="111122223333", partition="aws-cn") if one.severity >= 3]
    assert "iam-delegation" in {one.id for one in analyze_key_policy(opened.policy, account="111122223333", partition="aws-cn")}
    assert opened.policy["Statement"][0]["Principal"] == {"AWS": "arn:aws-cn:iam::111122223333:root"}


def test_outcomes_are_counted_and_too_many_refused():
    assert len(templated_policies(_many(5), HERE)) == MAX_ALTERNATIVES
    with pytest.raises(PolicyError) as caught:
        templated_policies(_many(6), HERE)
    assert caught.value.code == "policy/conditions"


def test_keys_that_promise_attestation_say_so_in_their_policy_or_are_marked():
    for policy in (POLICY, {"Fn::If": ["A", POLICY, NO_VALUE]}):
        assert promises_attestation({"Properties": {"KeyPolicy": policy}})
    assert promises_attestation({"Metadata": {ENCLAVE_KEY: True}})
    assert not promises_attestation({"Properties": {"KeyPolicy": None}, "Metadata": {"aws:cdk:path": "S/Key"}})
    assert not promises_attestation({})
