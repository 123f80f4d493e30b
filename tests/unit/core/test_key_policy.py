"""Key policies: what ours allow to whom, evaluated by the evaluator that the local KMS uses."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.key_policy import (
    AccessRequest,
    Opening,
    PolicyError,
    analyze_key_policy,
    authorize,
    build_key_policy,
    evaluate,
    evaluate_identity,
    openings,
    parse_policy,
    policy_for,
    retires,
)
from nitrokit.core.measurements import EMPTY_PCR2, Measurements, digest, pcr3, pcr8
from nitrokit.core.reference_values import ReferenceValues, RetiringSet

HOST, OWNER, ACCOUNT = "arn:aws:iam::123456789012:role/host", "arn:aws:iam::999999999999:role/owner", "123456789012"
OLD = Measurements(digest([b"old"]), digest([b"boot"]), digest([b"old app"]))
ALL = {"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}
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
    assert evaluate_identity([ALL], request).allowed


def test_both_policies_decide_together():
    policy, admin = _policy(), f"arn:aws:iam::{ACCOUNT}:user/admin"
    deletion = AccessRequest("kms:ScheduleKeyDeletion", admin, ACCOUNT)
    assert authorize(policy, [ALL], deletion, key_account=ACCOUNT).allowed
    assert not authorize(policy, [], deletion, key_account=ACCOUNT).allowed
    forbidden = {"Statement": {"Sid": "Never", "Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}}
    decrypt = AccessRequest("kms:Decrypt", HOST, ACCOUNT, context=_attested(OLD))
    assert authorize(policy, [], decrypt, key_account=ACCOUNT).allowed
    assert authorize(policy, [ALL, forbidden], decrypt, key_account=ACCOUNT).statement == "Never"
    encrypt = AccessRequest("kms:Encrypt", OWNER, "999999999999")
    assert not authorize(policy, [], encrypt, key_account=ACCOUNT).allowed, "from another account the key policy alone is not enough"
    assert authorize(policy, [ALL], encrypt, key_account=ACCOUNT).allowed


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


def test_a_policy_larger_than_kms_takes_is_refused():
    many = [Measurements(digest([bytes([number])]), OLD.pcr1, OLD.pcr2) for number in range(60)]
    with pytest.raises(PolicyError):
        _policy(measurements=many)


def test_a_deny_that_excepts_only_half_of_somebody_holds():
    """IAM User Guide, NotPrincipal: to except a role from a Deny, name its account too."""
    root = f"arn:aws:iam::{ACCOUNT}:root"
    for excepted, allowed in (([HOST], False), ([root], False), ([HOST, root], True), ([HOST, ACCOUNT], True)):
        deny = {"Effect": "Deny", "NotPrincipal": {"AWS": excepted}, "Action": "*", "Resource": "*"}
        policy = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}, deny]}
        assert _allowed(policy, "Decrypt", HOST) is allowed


def test_services_are_principals_of_their_own_kind():
    policy = {"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "kms:Decrypt", "Resource": "*"}}
    assert evaluate(policy, AccessRequest("kms:Decrypt", "ec2.amazonaws.com", "", kind="Service")).allowed
    assert not evaluate(policy, AccessRequest("kms:Decrypt", "ec2.amazonaws.com", "")).allowed


def test_a_resource_of_another_key_does_not_match():
    policy = {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "kms:Decrypt",
            "Resource": "arn:aws:kms:*:${aws:PrincipalAccount}:key/*",
        },
    }
    request = AccessRequest("kms:Decrypt", HOST, ACCOUNT, f"arn:aws:kms:us-east-1:{ACCOUNT}:key/k", {"aws:PrincipalAccount": ACCOUNT})
    assert not evaluate(policy, request).allowed, "a variable stands behind the fifth colon alone"
    policy["Statement"]["Resource"] = "arn:aws:kms:*:*:key/${aws:PrincipalTag/key}"  # type: ignore[index]
    assert not evaluate(policy, request).allowed
    assert evaluate(policy, replace(request, context={"aws:PrincipalTag/key": "k"})).allowed


def test_a_policy_may_be_parsed_once_and_asked_often():
    statements = parse_policy(_policy())
    assert evaluate(statements, AccessRequest("kms:Decrypt", HOST, ACCOUNT, context=_attested(OLD))).allowed


# Openings


ROLLOVER = ReferenceValues(NEW, (RetiringSet(OLD, datetime(2030, 1, 1, tzinfo=UTC)),))


def _rollover(**options):
    return policy_for(openings(HOST, ROLLOVER, **options), account=ACCOUNT)


def test_a_retiring_set_opens_until_its_date_and_the_current_one_on():
    policy = _rollover()
    assert [one["Sid"] for one in policy["Statement"][:2]] == ["AttestedEnclave0", "AttestedEnclave1Until20300101T000000Z"]
    for time, allowed in (("2029-12-31T23:59:59Z", True), ("2030-01-01T00:00:00Z", True), ("2030-01-01T00:00:01Z", False)):
        assert _allowed(policy, "Decrypt", HOST, {**_attested(OLD), "aws:CurrentTime": time}) is allowed
        assert _allowed(policy, "Decrypt", HOST, {**_attested(NEW), "aws:CurrentTime": time})
    assert not _allowed(policy, "Decrypt", HOST, _attested(OLD)), "a request without a time is none of KMS's"
    assert analyze_key_policy(policy, account=ACCOUNT) == []


def test_pcr3_and_further_conditions_go_with_every_set():
    policy = _rollover(pcr3=pcr3(HOST).hex(), condition={"StringEquals": {"aws:SourceVpce": "vpce-1"}})
    right = {**_attested(NEW), "aws:SourceVpce": "vpce-1", "kms:RecipientAttestation:PCR3": pcr3(HOST).hex()}
    assert _allowed(policy, "Decrypt", HOST, right)
    for key in ("aws:SourceVpce", "kms:RecipientAttestation:PCR3"):
        assert not _allowed(policy, "Decrypt", HOST, {name: value for name, value in right.items() if name != key})
    assert "DenyUnlessPcr3" in {one["Sid"] for one in policy["Statement"]}


def test_a_deny_demands_only_what_every_opening_compares():
    signed = replace(NEW, pcr8=pcr8(b"certificate"))
    found = [*openings(HOST, ReferenceValues(OLD)), *openings(HOST, ReferenceValues(signed))]
    policy = policy_for(found, account=ACCOUNT)
    assert "DenyUnlessPcr8" not in {one["Sid"] for one in policy["Statement"]}
    assert _allowed(policy, "Decrypt", HOST, _attested(OLD))
    assert not _allowed(policy, "Decrypt", HOST, _attested(NEW))
    assert _allowed(policy, "Decrypt", HOST, _attested(signed))


def test_the_same_opening_stands_once():
    assert policy_for(openings(HOST, ROLLOVER) * 3, account=ACCOUNT) == _rollover()


@pytest.mark.parametrize("indices", [(3, 4), (0, 1), (1, 2, 8), ()])
def test_what_does_not_tell_the_image_is_no_opening(indices):
    with pytest.raises(PolicyError) as caught:
        Opening(HOST, {index: OLD.pcr0.hex() for index in indices})
    assert caught.value.slug == "no-image"


@pytest.mark.parametrize(
    ("condition", "date"),
    [
        ({}, None), ({"DateLessThanEquals": {"AWS:currenttime": "2030-01-01T00:00:00Z"}}, "2030-01-01T00:00:00+00:00"),
        ({"DateLessThan": {"aws:CurrentTime": "2030-01-01"}}, "2029-12-31T23:59:59+00:00"),
        ({"DateLessThan": {"aws:CurrentTime": ["2030-01-01", "soon", "2031-01-01"]}, "DateLessThanEquals": {"aws:CurrentTime": "2032-01-01"}}, "2030-12-31T23:59:59+00:00"),
        ({"DateLessThan": {"aws:CurrentTime": "soon"}}, None), ({"DateGreaterThan": {"aws:CurrentTime": "2030-01-01"}}, None), ({"DateLessThan": {"aws:TokenIssueTime": "2030-01-01"}}, None),
    ],
)  # fmt: skip
def test_until_when_a_statement_holds(condition, date):
    statement = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": condition}
    (parsed,) = parse_policy({"Statement": statement})
    found = retires(parsed)
    assert (found and found.isoformat()) == date


def test_owners_with_a_condition_have_a_statement_of_their_own():
    owners = [([OWNER], {}), ("*", {"StringEquals": {"aws:PrincipalOrgID": "o-1"}})]
    policy = policy_for(openings(HOST, ROLLOVER), account=ACCOUNT, data_owners=owners)
    assert _allowed(policy, "Encrypt", OWNER)
    assert not _allowed(policy, "Encrypt", HOST)
    assert _allowed(policy, "Encrypt", HOST, {"aws:PrincipalOrgID": "o-1"})


@pytest.mark.parametrize("administrator", [ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:iam::{ACCOUNT}:role/*", "*"])
def test_an_administrator_is_one_principal(administrator):
    with pytest.raises(PolicyError) as caught:
        _policy(sealed=False, administrator_arn=administrator)
    assert caught.value.code == "policy/administrator"


@pytest.mark.parametrize(
    "condition",
    [
        {"StringEquals": {"kms:RecipientAttestation:PCR0": "00" * 48}},
        {"DateLessThanEquals": {"AWS:CurrentTime": "2030-01-01T00:00:00Z"}},
    ],
)
def test_a_principals_condition_cannot_replace_what_the_set_is_compared_by(condition):
    with pytest.raises(PolicyError) as caught:
        openings(HOST, ReferenceValues(NEW, (RetiringSet(OLD, datetime(2026, 12, 1, tzinfo=UTC)),)), condition=condition)
    assert caught.value.code == "policy/condition-clash"
