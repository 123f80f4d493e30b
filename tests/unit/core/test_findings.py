"""Findings: every way round an attestation condition is found, and nothing is found where there is none."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrokit.core.key_policy import (
    ATTESTED_ACTIONS,
    RULES,
    AccessRequest,
    Grant,
    PolicyError,
    Severity,
    analyze_key_policy,
    build_key_policy,
    evaluate,
    parse_policy,
)
from nitrokit.core.key_policy.adversaries import is_attestation_key
from nitrokit.core.key_policy.evaluate import matching
from nitrokit.core.measurements import EMPTY_PCR2, Measurements, digest, pcr3

ACCOUNT, OTHER = "123456789012", "999999999999"
HOST, OWNER, ROOT = f"arn:aws:iam::{ACCOUNT}:role/host", f"arn:aws:iam::{OTHER}:role/owner", f"arn:aws:iam::{ACCOUNT}:root"
OLD = Measurements(digest([b"old"]), digest([b"boot"]), digest([b"old app"]))
NEW = Measurements(digest([b"new"]), digest([b"boot"]), digest([b"new app"]))
KEY = "kms:RecipientAttestation:"
RIGHT = {"StringEqualsIgnoreCase": {KEY + "ImageSha384": OLD.pcr0.hex()}}


def _allow(condition=None, **elements):
    statement = {"Sid": "A", "Effect": "Allow", "Principal": {"AWS": HOST}, "Action": "kms:Decrypt", "Resource": "*", **elements}
    return {key: value for key, value in {**statement, **({"Condition": condition} if condition else {})}.items() if value is not ...}


def _policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _ids(policy, **options):
    return {finding.id for finding in analyze_key_policy(policy, account=ACCOUNT, **options)}


def test_our_own_policies_have_no_way_round():
    sealed = build_key_policy(measurements=[OLD, NEW], host_role_arn=HOST, account=ACCOUNT)
    assert analyze_key_policy(sealed, account=ACCOUNT) == []
    with_owner = build_key_policy(measurements=[OLD], host_role_arn=HOST, account=ACCOUNT, data_owner_arns=[OWNER])
    assert _ids(with_owner) == {"unauthenticated-ciphertext"}
    open_policy = build_key_policy(measurements=[OLD], host_role_arn=HOST, account=ACCOUNT, sealed=False, administrator_arn=OWNER)
    finding, alias = analyze_key_policy(open_policy, account=ACCOUNT)
    assert (alias.id, alias.principals, alias.statement) == ("alias-move", (OWNER,), "ChangePolicy")
    assert (finding.id, finding.principals, finding.actions, finding.statement) == (
        "policy-change",
        (OWNER,),
        ("kms:PutKeyPolicy",),
        "ChangePolicy",
    )


def test_our_deny_holds_against_what_somebody_adds():
    policy = build_key_policy(measurements=[OLD], host_role_arn=HOST, account=ACCOUNT)
    policy["Statement"].append(_allow(Sid="Added", Principal="*", Action="kms:*"))
    found = analyze_key_policy(policy, account=ACCOUNT)
    assert {finding.id for finding in found} == {"wildcard-action", "unauthenticated-ciphertext"}


def test_the_default_key_policy_leaves_everything_to_iam():
    found = {
        finding.id: finding for finding in analyze_key_policy(_policy(_allow(Principal={"AWS": ROOT}, Action="kms:*")), account=ACCOUNT)
    }
    assert set(found) == {
        "alias-move",
        "iam-delegation",
        "re-encrypt",
        "decapsulate",
        "grant",
        "policy-change",
        "replication",
        "wildcard-action",
        "unauthenticated-ciphertext",
    }
    assert found["iam-delegation"].actions == ATTESTED_ACTIONS
    assert found["iam-delegation"].principals == (f"any principal of account {ACCOUNT}",)


def test_the_advice_to_leave_decrypt_out_is_not_enough():
    ids = _ids(_policy(_allow(Principal={"AWS": ROOT}, Action=..., NotAction="kms:Decrypt"), _allow(RIGHT)))
    assert {"iam-delegation", "re-encrypt", "decapsulate", "grant", "policy-change", "replication", "not-action"} <= ids


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (RIGHT, set()), ({"StringEquals": {KEY + "PCR0": OLD.pcr0.hex()}}, set()), ({"StringLike": {KEY + "PCR0": OLD.pcr0.hex()}}, set()),
        ({"StringEquals": {KEY + "PCR0": OLD.pcr0.hex(), KEY + "PCR8": NEW.pcr0.hex()}}, set()), (None, {"unattested"}), ({"StringEqualsIfExists": {KEY + "PCR0": OLD.pcr0.hex()}}, {"unattested"}),
        ({"StringNotEquals": {KEY + "PCR0": OLD.pcr0.hex()}}, {"unattested"}), ({"ForAllValues:StringEquals": {KEY + "PCR0": OLD.pcr0.hex()}}, {"unattested"}),
        ({"Null": {KEY + "PCR0": "true"}}, {"unattested"}), ({"StringEquals": {"aws:SourceVpc": "vpc-1"}}, {"unattested"}), ({"Null": {KEY + "PCR0": "false"}}, {"any-image"}),
        ({"StringLike": {KEY + "PCR0": "*"}}, {"any-image"}), ({"StringEquals": {KEY + "PCR3": pcr3(HOST).hex()}}, {"any-image"}), ({"StringEquals": {KEY + "PCR16": OLD.pcr0.hex()}}, {"any-image"}),
        ({"StringEquals": {KEY + "PCR1": OLD.pcr1.hex()}}, {"boot-only"}), ({"StringEquals": {KEY + "PCR8": OLD.pcr1.hex()}}, {"signer-only"}),
        ({"StringEquals": {KEY + "PCR8": OLD.pcr1.hex(), KEY + "PCR3": pcr3(HOST).hex()}}, {"signer-only"}), ({"StringEquals": {KEY + "PCR2": EMPTY_PCR2.hex()}}, {"empty-application", "empty-value"}),
        ({"StringEquals": {KEY + "ImageSha384": "00" * 48}}, {"debug-enclave", "zero-value"}), ({"StringEquals": {KEY + "PCR0": [OLD.pcr0.hex(), "00" * 48]}}, {"debug-enclave", "zero-value"}),
        ({"StringEquals": {KEY + "PCR0": OLD.pcr0.hex(), KEY + "PCR8": "00" * 48}}, {"zero-value"}),
        ({"StringEquals": {KEY + "PCR0": [OLD.pcr0.hex(), NEW.pcr0.hex()], KEY + "PCR2": [OLD.pcr2.hex(), NEW.pcr2.hex()]}}, {"mixed-sets"}),
        ({"StringEquals": {"kms:RecipientAttestation": "x"}}, {"unknown-key", "nobody"}), ({"StringEquals": {KEY + "PCR32": OLD.pcr0.hex()}}, {"unknown-key", "nobody"}),
        ({"StringEquals": {KEY + "PCR0": "0x" + OLD.pcr0.hex()}}, {"value-form", "nobody"}), ({"StringEquals": {KEY + "PCR0": OLD.pcr0.hex().upper()}}, {"value-form", "nobody"}),
        ({"StringEqualsIgnoreCase": {KEY + "PCR0": OLD.pcr0.hex().upper()}}, set()), ({"StringLike": {KEY + "PCR0": "x*"}}, {"value-form", "nobody"}),
        ({"StringMaybe": {KEY + "PCR0": OLD.pcr0.hex()}}, {"unattested", "unknown-operator"}), ({"StringEquals": {"aws:ResourceTag/a": "b"}, **RIGHT}, {"attribute-based"}),
        ({"StringEquals": {KEY + "NitroTPMPCR4": OLD.pcr0.hex()}}, {"tpm-boot-arguments"}), ({"StringEquals": {KEY + "NitroTPMPCR4": OLD.pcr0.hex(), KEY + "NitroTPMPCR12": "00" * 48}}, set()),
        ({"StringLike": {KEY + "NitroTPMPCR4": "*"}}, {"any-image"}), ({"StringEquals": {KEY + "NitroTPMPCR7": OLD.pcr0.hex()}}, set()),
        ({"StringEquals": {KEY + "NitroTPMPCR24": OLD.pcr0.hex()}}, {"unknown-key", "nobody"}),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_condition_leaves_open(condition, expected):
    assert _ids(_policy(_allow(condition))) == expected


@pytest.mark.parametrize(
    ("action", "finding"),
    [("ReEncryptFrom", "re-encrypt"), ("Decapsulate", "decapsulate"), ("CreateGrant", "grant"), ("PutKeyPolicy", "policy-change"),
     ("ReplicateKey", "replication"), ("Encrypt", "unauthenticated-ciphertext")],
)  # fmt: skip
def test_actions_that_take_no_document(action, finding):
    assert finding in _ids(_policy(_allow(RIGHT), _allow(Sid="B", Action=f"kms:{action}")))
    assert finding in _ids(
        _policy(_allow(RIGHT), _allow({"Bool": {"kms:GrantIsForAWSResource": "true"}}, Sid="B", Action=f"kms:{action}"))
    ), "a condition may be met"
    assert _ids(_policy(_allow(RIGHT), _allow(RIGHT, Sid="B", Action=f"kms:{action}"))) == {"misplaced-condition"}
    deny = _allow(Sid="C", Effect="Deny", Principal="*", Action=f"kms:{action}")
    assert finding not in _ids(_policy(_allow(RIGHT), _allow(Sid="B", Action=f"kms:{action}"), deny))
    half = {**deny, "Condition": {"StringNotEquals": {"aws:SourceVpc": "vpc-1"}}}
    assert finding in _ids(_policy(_allow(RIGHT), _allow(Sid="B", Action=f"kms:{action}"), half)), "a Deny that may not hold denies nothing"


@pytest.mark.parametrize(
    ("principal", "labels"),
    [
        ("*", ("any AWS principal, of any account",)), ({"AWS": OTHER}, (f"any principal of account {OTHER}",)), ({"AWS": [HOST, OWNER]}, (HOST, OWNER)),
        ({"Service": "ec2.amazonaws.com"}, ("ec2.amazonaws.com",)), ({"AWS": "AROAEXAMPLE"}, ("AROAEXAMPLE",)), ({"CanonicalUser": "79a59d"}, ("79a59d",)),
    ],
    ids=str,
)  # fmt: skip
def test_whoever_may_is_named(principal, labels):
    (finding,) = [
        one for one in analyze_key_policy(_policy(_allow(Principal=principal)), account=ACCOUNT) if one.severity == Severity.CRITICAL
    ]
    assert finding.principals == labels


def test_a_condition_on_the_principal_narrows_it():
    allow = _allow({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/team-*"}}, Principal="*")
    (finding,) = [one for one in analyze_key_policy(_policy(allow), account=ACCOUNT) if one.severity == Severity.CRITICAL]
    assert finding.principals == (f"arn:aws:iam::{ACCOUNT}:role/team-*",)
    everybody_else = _allow({"ArnNotEquals": {"aws:PrincipalArn": HOST}}, Sid="D", Effect="Deny", Principal="*", Action="kms:*")
    (finding,) = [
        one
        for one in analyze_key_policy(_policy(_allow(Principal="*"), everybody_else), account=ACCOUNT)
        if one.severity == Severity.CRITICAL
    ]
    assert finding.principals == (HOST,)


def test_not_principal_allows_everybody_else():
    found = _ids(_policy(_allow(RIGHT, Principal=..., NotPrincipal={"AWS": OWNER})))
    assert found == {"not-principal"}
    assert "unattested" in _ids(_policy(_allow(Principal=..., NotPrincipal={"AWS": OWNER})))
    deny = _allow(Sid="D", Effect="Deny", Principal=..., NotPrincipal={"AWS": HOST}, Action="*")
    (finding,) = [one for one in analyze_key_policy(_policy(_allow(Principal="*"), deny), account=ACCOUNT) if one.id == "unattested"]
    assert finding.principals == (HOST,), "a Deny that excepts somebody may not hold for them"


def test_another_keys_resource_may_be_this_key():
    assert "unattested" in _ids(_policy(_allow(Resource="arn:aws:kms:*:*:key/k")))
    deny = _allow(Sid="D", Effect="Deny", Principal="*", Resource="arn:aws:kms:*:*:key/k")
    assert "unattested" in _ids(_policy(_allow(), deny))
    assert "unattested" not in _ids(_policy(_allow(), {**deny, "Resource": "*"}))


def test_existing_grants_are_a_way_round_unless_denied():
    grant = Grant("g1", OWNER, ("Decrypt", "ReEncryptFrom"))
    found = {one.id: one for one in analyze_key_policy(_policy(_allow(RIGHT)), account=ACCOUNT, grants=[grant])}
    assert set(found) == {"existing-grant", "re-encrypt"}
    opening, re_encrypt = found["existing-grant"], found["re-encrypt"]
    assert (opening.id, opening.statement, opening.principals, opening.actions) == (
        "existing-grant",
        "grant g1",
        (OWNER,),
        ("kms:Decrypt",),
    )
    assert (re_encrypt.id, re_encrypt.statement) == ("re-encrypt", "grant g1")
    ours = build_key_policy(measurements=[OLD], host_role_arn=HOST, account=ACCOUNT)
    assert analyze_key_policy(ours, account=ACCOUNT, grants=[grant]) == []


def test_a_policy_that_is_too_large_is_told():
    assert "document-size" in _ids(json.dumps(_policy(_allow(RIGHT, Sid="x" * 33_000))))


def test_what_is_no_policy_is_our_error():
    with pytest.raises(PolicyError):
        analyze_key_policy("{", account=ACCOUNT)


def test_findings_say_why_and_what_to_do_and_come_worst_first():
    found = analyze_key_policy(
        _policy(_allow(Principal="*", Action="kms:*"), _allow({"StringEqualsIfExists": {KEY + "PCR0": OLD.pcr0.hex()}}, Sid="B")),
        account=ACCOUNT,
    )
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities, reverse=True)
    for finding in found:
        told = finding.as_dict()
        assert told["reason"] and told["fix"] and told["severity"] in ("critical", "high", "medium", "low", "info")
    assert "StringEqualsIfExists" in next(finding.reason for finding in found if finding.statement == "B")


def test_rules_have_ids_of_their_own():
    assert all(rule.id == key for key, rule in RULES.items())


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("ImageSha384", True),
        ("pcr31", True),
        ("PCR32", False),
        ("PCR01", False),
        ("NitroTPMPCR23", True),
        ("NitroTPMPCR24", False),
        ("PCR", False),
        ("PCRx", False),
    ],
)
def test_the_keys_that_kms_knows(key, known):
    assert is_attestation_key(KEY + key) is known


VALUES = st.sampled_from([OLD.pcr0.hex(), NEW.pcr0.hex(), "00" * 48, EMPTY_PCR2.hex(), "*"])
CONDITIONS = st.dictionaries(
    st.sampled_from(["StringEquals", "StringLike", "StringNotEquals", "StringEqualsIfExists", "ForAllValues:StringEquals", "ForAnyValue:StringEquals", "ArnEquals", "ArnNotLike"]),
    st.dictionaries(st.sampled_from([KEY + "PCR0", KEY + "PCR1", KEY + "PCR8", KEY + "PCR3"]), VALUES, min_size=1, max_size=2),
    max_size=2,
)  # fmt: skip
PRINCIPALS = st.sampled_from(["*", {"AWS": HOST}, {"AWS": ROOT}, {"AWS": OTHER}, {"AWS": [HOST, OWNER]}])
ACTIONS = st.sampled_from(["kms:Decrypt", "kms:*", "*", ["kms:GenerateDataKey", "kms:De*"], "kms:CreateGrant", "kms:ReEncrypt*"])


@st.composite
def _statements(draw):
    elements = {
        draw(st.sampled_from(["Principal", "NotPrincipal"])): draw(PRINCIPALS),
        draw(st.sampled_from(["Action", "NotAction"])): draw(ACTIONS),
    }
    return {"Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])), "Resource": "*", "Condition": draw(CONDITIONS), **elements}


@given(st.lists(_statements(), min_size=1, max_size=4))
@settings(max_examples=400)
def test_whoever_passes_without_a_document_is_found(statements):
    """Never too little: what the evaluator lets through without a document has a finding that is at least high."""
    policy = _policy(*statements)
    worst = {
        action for finding in analyze_key_policy(policy, account=ACCOUNT) if finding.severity >= Severity.HIGH for action in finding.actions
    }
    for action in (*ATTESTED_ACTIONS, "kms:CreateGrant", "kms:ReEncryptFrom", "kms:PutKeyPolicy", "kms:Decapsulate", "kms:ReplicateKey"):
        for principal in (HOST, OWNER, f"arn:aws:iam::{ACCOUNT}:user/x", "arn:aws:iam::111111111111:role/y"):
            decision = evaluate(policy, AccessRequest(action, principal, principal.split(":")[4], context={"aws:PrincipalArn": principal}))
            if decision.allowed or decision.delegated_to_iam:
                assert action in worst


def _arn_is(name, operator="ArnLike"):
    return {operator: {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/{name}"}}


def _denied(condition, **elements):
    return _allow(condition, **{"Sid": "D", "Effect": "Deny", "Principal": "*", **elements})


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([_allow({"StringLike": {KEY + "PCR0": "ab*"}})], "any-image"),
        ([_allow({"StringLike": {KEY + "PCR0": OLD.pcr0.hex()[:4] + "?" * 92}})], "any-image"),
        ([_allow({"Null": {KEY + "PCR0": "false"}}), _denied({"StringEquals": {KEY + "PCR3": pcr3(HOST).hex()}})], "any-image"),
        ([_allow({"Null": {KEY + "PCR0": "false"}}), _denied({"StringNotEquals": {KEY + "PCR3": pcr3(HOST).hex()}})], "any-image"),
        ([_allow({"Null": {KEY + "PCR0": "false"}}), _denied({"StringEquals": {KEY + "PCR16": OLD.pcr0.hex()}})], "any-image"),
        ([_allow({"Null": {KEY + "PCR0": "false"}}), _denied({"Null": {KEY + "PCR16": "false"}})], "any-image"),
        ([_allow({"StringEquals": {KEY + "PCR3": pcr3(HOST).hex()}}), _allow({"StringEquals": {KEY + "NitroTPMPCR4": OLD.pcr0.hex()}}, Sid="T")], "any-image"),
        ([_allow(Principal="*"), _denied({"StringNotEquals": {"aws:PrincipalAccount": "222222222222"}})], "unattested"),
        ([_allow({"StringEquals": {"kms:CallerAccount": "222222222222"}}, Principal="*")], "unattested"),
        ([_allow(_arn_is("team-*"), Principal="*"), _denied(_arn_is("*-enclave", "ArnNotLike"))], "unattested"),
        ([_allow(_arn_is("team-*"), Principal="*"), _denied(_arn_is("team-x*"))], "unattested"),
        ([_allow(_arn_is("team-*"), Principal={"AWS": ROOT}), _denied(_arn_is("team-?"))], "iam-delegation"),
        ([_allow(Principal={"AWS": ROOT}), _denied(_arn_is("*"))], "iam-delegation"),
        ([_allow(Principal={"AWS": ROOT}), _denied(_arn_is("any", "StringEquals"))], "iam-delegation"),
        ([_allow(Principal={"AWS": ROOT}), _denied({"StringLike": {"aws:PrincipalArn": ["*:role/any*", "*:user/any*"]}})], "iam-delegation"),
        ([_allow({"Bool": {"aws:PrincipalIsAWSService": "false"}}, Principal="*"), _denied({"StringNotLike": {"kms:CallerAccount": "99*"}})], "unattested"),
        ([_allow(Principal="*"), _denied({"StringEquals": {"kms:CallerAccount": [ACCOUNT, "000000000000"]}}), _denied({"Bool": {"aws:PrincipalIsAWSService": "true"}})], "unattested"),
        ([_allow({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/x"}}, Principal="*"), _denied({"StringEquals": {"aws:PrincipalAccount": ACCOUNT}})], "unattested"),
        ([_allow({"Bool": {"aws:PrincipalIsAWSService": "true"}}, Principal="*")], "unattested"),
        ([_allow(Principal={"AWS": f"arn:aws:sts::{ACCOUNT}:assumed-role/host/i-1"}), _denied({"ArnNotEquals": {"aws:PrincipalArn": HOST}})], "unattested"),
        ([_allow(Principal={"AWS": "AROAEXAMPLE"}), _denied({"ArnNotEquals": {"aws:PrincipalArn": HOST}})], "unattested"),
        ([_allow(Principal={"AWS": ROOT}), _denied({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/admin"}})], "iam-delegation"),
        ([_allow(Principal={"AWS": ROOT}), _denied({"StringNotLike": {"aws:PrincipalArn": "*admin*"}})], "iam-delegation"),
    ],
    ids=str,
)  # fmt: skip
def test_ways_that_only_seem_to_be_closed(statements, expected):
    assert expected in _ids(_policy(*statements))


def test_many_statements_and_principals_are_analyzed_in_time(monkeypatch):
    """By the number of evaluations, not by the clock: principals that an Allow does not name cost next to nothing."""
    calls = 0

    def counted(statement, request):
        nonlocal calls
        calls += 1
        return matching(statement, request)

    monkeypatch.setattr("nitrokit.core.key_policy.findings.matching", counted)
    roles = [f"arn:aws:iam::{ACCOUNT}:role/r{number}" for number in range(100)]
    allows = [_allow(RIGHT, Sid=f"S{number}", Principal={"AWS": role}) for number, role in enumerate(roles)]
    policy = _policy(*allows, _denied({"StringNotEquals": RIGHT["StringEqualsIgnoreCase"]}))
    assert analyze_key_policy(policy, account=ACCOUNT) == []
    assert calls < 60_000


FOREIGN, OTHER_FOREIGN, ZERO = "ab" * 48, "cd" * 48, "00" * 48
VALUE = st.sampled_from([OLD.pcr0.hex(), NEW.pcr0.hex(), ZERO, EMPTY_PCR2.hex(), "*", "a*", "c?d*", NEW.pcr2.hex().upper()])
KEYS = [KEY + name for name in ("ImageSha384", "PCR0", "PCR1", "PCR2", "PCR3", "PCR8", "PCR16", "NitroTPMPCR4")]
OPERATORS = [
    "StringEquals",
    "StringEqualsIgnoreCase",
    "StringLike",
    "StringNotEquals",
    "StringNotLike",
    "StringEqualsIfExists",
    "StringNotEqualsIfExists",
    "ForAnyValue:StringLike",
]
ATTESTED = st.dictionaries(
    st.sampled_from(OPERATORS), st.dictionaries(st.sampled_from(KEYS), VALUE | st.lists(VALUE, min_size=1, max_size=2), min_size=1, max_size=2), max_size=2
)  # fmt: skip
NULLS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["true", "false"]), max_size=1)


@st.composite
def _attested_statements(draw):
    condition = draw(ATTESTED)
    if nulls := draw(NULLS):
        condition = {**condition, "Null": nulls}
    return {
        "Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])),
        "Principal": draw(PRINCIPALS),
        "Action": draw(ACTIONS),
        "Resource": "*",
        "Condition": condition,
    }


def _documents_of_an_adversary():
    """Concrete documents of images that nobody accepts: foreign, debug mode; signed by oneself or not; with and without own PCRs."""
    for image in (FOREIGN, OTHER_FOREIGN, ZERO):
        for signed in (ZERO, OTHER_FOREIGN) if image != ZERO else (ZERO,):
            for parent in (OLD.pcr0.hex(), ZERO, OTHER_FOREIGN):
                for own in (None, OLD.pcr0.hex(), FOREIGN):
                    pcrs = {"ImageSha384": image, "PCR0": image, "PCR1": image, "PCR2": image, "PCR3": parent, "PCR8": signed}
                    yield {KEY + name: value for name, value in ({**pcrs, "PCR16": own} if own else pcrs).items()}


@given(st.lists(_attested_statements(), min_size=1, max_size=4))
@settings(max_examples=300)
def test_whoever_passes_with_a_document_of_another_image_is_found(statements):
    policy = _policy(*statements)
    worst = {
        action for finding in analyze_key_policy(policy, account=ACCOUNT) if finding.severity >= Severity.HIGH for action in finding.actions
    }
    parsed = parse_policy(policy)
    for context in _documents_of_an_adversary():
        for principal in (HOST, "arn:aws:iam::111111111111:role/y"):
            request = AccessRequest("kms:Decrypt", principal, principal.split(":")[4], context={**context, "aws:PrincipalArn": principal})
            decision = evaluate(parsed, request)
            if decision.allowed or decision.delegated_to_iam:
                assert "kms:Decrypt" in worst, context


_NAMES = st.text("ab*?", min_size=1, max_size=3)
_ABOUT_WHOM = st.one_of(
    st.builds(_arn_is, _NAMES, st.sampled_from(["ArnLike", "ArnNotLike", "StringLike", "StringNotLike", "StringEquals", "StringNotEquals"])),
    st.builds(lambda text, operator: {operator: {"kms:CallerAccount": text}}, st.sampled_from([ACCOUNT, OTHER, "9*", "*9", "1?*"]), st.sampled_from(["StringLike", "StringNotLike"])),
)  # fmt: skip


@given(
    st.lists(
        st.one_of(
            st.builds(_allow, _ABOUT_WHOM, Principal=st.sampled_from(["*", {"AWS": ROOT}, {"AWS": OTHER}])), st.builds(_denied, _ABOUT_WHOM)
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([ACCOUNT, OTHER, "190000000009"]),
    st.tuples(st.sampled_from(["role", "user"]), st.text("abx", min_size=1, max_size=4)).map("/".join),
)
@settings(max_examples=500)
def test_whoever_a_pattern_lets_through_is_found(statements, account, name):
    """Never too little, whatever patterns and literal names conditions compare a principal with."""
    arn = f"arn:aws:iam::{account}:{name}"
    context = {"aws:PrincipalArn": arn, "kms:CallerAccount": account, "aws:PrincipalAccount": account, "aws:PrincipalIsAWSService": "false"}
    decision = evaluate(_policy(*statements), AccessRequest("kms:Decrypt", arn, account, context=context))
    if decision.allowed or decision.delegated_to_iam:
        found = [one for one in analyze_key_policy(_policy(*statements), account=ACCOUNT) if one.severity == Severity.CRITICAL]
        assert any("kms:Decrypt" in one.actions for one in found)
