"""Two key policies that say the same, however they are written, and those that do not."""

import copy
import json

import pytest

from nitrokit.core.key_policy import PolicyError, build_key_policy, policy_differences

HOST = "arn:aws:iam::123456789012:role/host"


@pytest.fixture
def policy(measurements):
    return build_key_policy(
        measurements=[measurements], host_role_arn=HOST, account="123456789012", data_owner_arns=["arn:aws:iam::210987654321:root", HOST]
    )


def test_order_case_sids_and_single_values_mean_nothing(policy):
    other = copy.deepcopy(policy)
    for number, one in enumerate(other["Statement"]):
        one["Sid"] = f"Other{number}"
        one["Action"] = [action.upper().replace("KMS:", "kms:") for action in reversed(one["Action"])]
        if isinstance(one["Principal"]["AWS"], str):
            one["Principal"]["AWS"] = [one["Principal"]["AWS"].replace("arn:aws:iam::123456789012:root", "123456789012")]
        else:
            one["Principal"]["AWS"] = ["210987654321", HOST]
        for condition in one.get("Condition", {}).values():
            for key in list(condition):
                value = condition.pop(key)
                condition[key.lower()] = [value] if isinstance(value, str) else value[0] if len(value) == 1 else value
    other["Statement"].reverse()
    assert policy_differences(json.dumps(other), policy) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.update(Effect="Deny"), lambda one: one["Action"].append("kms:Encrypt"), lambda one: one.update(Principal="*"), lambda one: one.update(Resource="arn:aws:kms:*:*:key/x"),
        lambda one: one.pop("Condition"), lambda one: one["Condition"].update(Bool={"aws:SecureTransport": "true"}),
        lambda one: one.update(NotPrincipal=one.pop("Principal")), lambda one: one.update(NotAction=one.pop("Action")),
    ],
)  # fmt: skip
def test_a_change_is_told_from_both_sides(policy, change):
    other = copy.deepcopy(policy)
    change(other["Statement"][0])
    gone, added = policy_differences(other, policy)
    assert gone == "statement AttestedEnclave0 is gone, or was changed"
    assert added.startswith("statement AttestedEnclave0 was added, or changed: ")


def test_what_was_added_is_told_whole(policy):
    statement = {
        "Sid": "Back",
        "Effect": "Allow",
        "NotPrincipal": {"AWS": HOST},
        "NotAction": "kms:Encrypt",
        "Resource": "*",
        "Condition": {"Null": {"aws:x": "true"}},
    }
    other = {**policy, "Statement": [*policy["Statement"], statement]}
    told = f"statement Back was added, or changed: Allow all but kms:Encrypt for all but {HOST} when Null aws:x true"
    assert policy_differences(other, policy) == [told]
    assert policy_differences(policy, other) == ["statement Back is gone, or was changed"]


def test_another_version_is_another_meaning_since_variables_are_not_replaced(policy):
    assert policy_differences({**policy, "Version": "2008-10-17"}, policy)


def test_what_is_no_policy_is_refused(policy):
    for deployed, expected in (("{", policy), (json.dumps(policy), "{}")):
        with pytest.raises(PolicyError):
            policy_differences(deployed, expected)
