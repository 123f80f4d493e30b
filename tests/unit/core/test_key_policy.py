"""Key policies: what ours allow to whom, evaluated by the evaluator that the local KMS uses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.key_policy import AccessRequest, PolicyError, build_key_policy, evaluate, evaluate_identity
from nitrokit.core.measurements import EMPTY_PCR2, Measurements, digest

HOST, OWNER, ACCOUNT = "arn:aws:iam::123456789012:role/host", "arn:aws:iam::999999999999:role/owner", "123456789012"
OLD = Measurements(digest([b"old"]), digest([b"boot"]), digest([b"old app"]))
NEW = Measurements(digest([b"new"]), digest([b"boot"]), digest([b"new app"]))


def _policy(**changes):
    arguments = {"measurements": [OLD], "host_role_arn": HOST, "account": ACCOUNT, "data_owner_arns": [OWNER]}
    return build_key_policy(**{**arguments, **changes})


def _attested(one):
    context = {f"kms:RecipientAttestation:PCR{index}": value.hex() for index, value in one.pcrs().items()}
    return {**context, "kms:RecipientAttestation:ImageSha384": one.pcr0.hex()}


def _allowed(policy, action, principal, context=None):
    return evaluate(policy, AccessRequest(f"kms:{action}", principal, principal.split(":")[4], context=context or {})).allowed


@pytest.mark.parametrize("action", ["Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "DeriveSharedSecret"])
def test_only_the_attested_host_opens(action):
    policy = _policy()
    assert _allowed(policy, action, HOST, _attested(OLD))
    assert not _allowed(policy, action, HOST)
    assert not _allowed(policy, action, HOST, _attested(NEW))
    assert not _allowed(policy, action, OWNER, _attested(OLD))
    assert not _allowed(policy, action, f"arn:aws:iam::{ACCOUNT}:root", _attested(OLD))


def test_case_of_hex_does_not_matter():
    upper = {key: value.upper() for key, value in _attested(OLD).items()}
    assert _allowed(_policy(), "Decrypt", HOST, upper)


def test_two_sets_stand_side_by_side_and_never_mix():
    policy = _policy(measurements=[OLD, NEW])
    assert _allowed(policy, "Decrypt", HOST, _attested(OLD))
    assert _allowed(policy, "Decrypt", HOST, _attested(NEW))
    assert not _allowed(policy, "Decrypt", HOST, _attested(Measurements(OLD.pcr0, OLD.pcr1, NEW.pcr2)))


@pytest.mark.parametrize("action", ["CreateGrant", "ReEncryptFrom", "Decapsulate", "ReplicateKey", "PutKeyPolicy"])
@pytest.mark.parametrize("principal", [HOST, OWNER, f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:iam::{ACCOUNT}:user/admin"])
def test_no_way_round_a_sealed_key(action, principal):
    decision = evaluate(_policy(), AccessRequest(f"kms:{action}", principal, principal.split(":")[4], context=_attested(OLD)))
    assert (decision.allowed, decision.delegated_to_iam) == (False, False)
    assert decision.reason == "explicit deny"


def test_the_deny_beats_an_allow_that_somebody_adds():
    policy = _policy()
    policy["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"})
    assert not _allowed(policy, "Decrypt", OWNER)
    assert not _allowed(policy, "Decrypt", HOST, _attested(NEW))


def test_owners_encrypt_and_cannot_decrypt():
    assert _allowed(_policy(), "Encrypt", OWNER)
    assert not _allowed(_policy(), "Decrypt", OWNER)
    assert not _allowed(_policy(), "Encrypt", HOST)


def test_the_account_manages_the_keys_lifetime_through_iam():
    request = AccessRequest("kms:ScheduleKeyDeletion", f"arn:aws:iam::{ACCOUNT}:user/admin", ACCOUNT)
    assert evaluate(_policy(), request).delegated_to_iam
    assert not evaluate_identity([], request).allowed
    assert evaluate_identity([{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}], request).allowed


def test_an_unsealed_key_names_who_may_change_it():
    with pytest.raises(PolicyError):
        _policy(sealed=False)
    policy = _policy(sealed=False, administrator_arn=OWNER)
    assert _allowed(policy, "PutKeyPolicy", OWNER)
    assert not _allowed(policy, "PutKeyPolicy", HOST)


@pytest.mark.parametrize(
    "sets",
    [[], [Measurements(bytes(48), OLD.pcr1, OLD.pcr2)], [Measurements(OLD.pcr0, OLD.pcr1, EMPTY_PCR2)], [Measurements(OLD.pcr0, OLD.pcr1, OLD.pcr2, bytes(48))]],
    ids=["none", "zero PCR0", "empty PCR2", "zero PCR8"],
)  # fmt: skip
def test_policies_that_would_open_for_anybody_are_refused(sets):
    with pytest.raises(PolicyError):
        _policy(measurements=sets)


def _one(effect, condition=None, **elements):
    statement = {"Effect": effect, "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", **elements}
    return {"Statement": [statement if condition is None else {**statement, "Condition": condition}]}


@pytest.mark.parametrize(
    ("condition", "context", "expected"),
    [
        ({"StringEquals": {"k": "a"}}, {"k": "a"}, True), ({"StringEquals": {"k": "a"}}, {"k": "A"}, False), ({"StringEqualsIgnoreCase": {"K": "a"}}, {"k": "A"}, True),
        ({"StringEquals": {"k": ["a", "b"]}}, {"k": "b"}, True), ({"StringEquals": {"k": "a"}}, {}, False), ({"StringNotEquals": {"k": "a"}}, {}, True),
        ({"StringNotEquals": {"k": ["a", "b"]}}, {"k": "b"}, False), ({"StringEqualsIfExists": {"k": "a"}}, {}, True), ({"StringLike": {"k": "a*c?"}}, {"k": "abbcd"}, True),
        ({"Null": {"k": "true"}}, {}, True), ({"Null": {"k": "true"}}, {"k": "a"}, False), ({"Null": {"k": "false"}}, {"k": "a"}, True), ({"Bool": {"k": "true"}}, {"k": "true"}, True),
        ({"StringEquals": {"k": "a", "l": "b"}}, {"k": "a"}, False), ({"ForAnyValue:StringEquals": {"k": "a"}}, {"k": ["b", "a"]}, True),
        ({"ForAnyValue:StringEquals": {"k": "a"}}, {}, False), ({"ForAllValues:StringEquals": {"k": "a"}}, {}, True), ({"ForAllValues:StringEquals": {"k": "a"}}, {"k": ["a", "b"]}, False),
        ({"ForAnyValue:StringNotEquals": {"k": "a"}}, {}, False), ({"ArnLike": {"k": "arn:aws:iam::*:role/x"}}, {"k": "arn:aws:iam::1:role/x"}, True),
    ],
)  # fmt: skip
def test_condition_operators(condition, context, expected):
    assert _allowed(_one("Allow", condition), "Decrypt", HOST, context) is expected


@pytest.mark.parametrize(
    "policy",
    [
        _one("Allow", {"NumericEquals": {"k": "1"}}), _one("Allow", {"StringEquals": "k"}), _one("Allow", NotAction="kms:Encrypt"), _one("Maybe"), _one("Allow", Surprise=1),
        _one("Allow", Principal={"Martian": "x"}), _one("Allow", Action=5), {}, {"Statement": "x"}, _one("Allow", {"Null": {"k": "maybe"}}),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(policy):
    with pytest.raises(PolicyError):
        _allowed(policy, "Decrypt", HOST)


def test_not_principal_and_not_action():
    policy = {"Statement": [{"Effect": "Allow", "NotPrincipal": {"AWS": OWNER}, "NotAction": "kms:Encrypt", "Resource": "*"}]}
    assert _allowed(policy, "Decrypt", HOST)
    assert not _allowed(policy, "Decrypt", OWNER)
    assert not _allowed(policy, "Encrypt", HOST)


@given(
    st.dictionaries(
        st.sampled_from([f"kms:RecipientAttestation:PCR{index}" for index in range(5)] + ["kms:RecipientAttestation:ImageSha384"]),
        st.sampled_from([OLD.pcr0.hex(), NEW.pcr0.hex(), OLD.pcr1.hex(), OLD.pcr2.hex(), "", "00" * 48]),
    )
)
def test_nothing_but_a_whole_set_opens(context):
    complete = all(context.get(key) == value for key, value in _attested(OLD).items())
    assert _allowed(_policy(), "Decrypt", HOST, context) is complete


def test_the_policy_is_json_and_small():
    assert len(json.dumps(_policy(measurements=[OLD, NEW]))) < 8000
