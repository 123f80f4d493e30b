"""Policy documents, patterns and condition operators: what they mean, and what is refused. tests/unit/core/test_iam_simulate.py has the second opinion."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.key_policy import AccessRequest, PolicyError, evaluate, parse_policy
from nitrokit.core.key_policy.conditions import every, negate, some
from nitrokit.core.key_policy.patterns import Unknown, matches

HOST, ACCOUNT = "arn:aws:iam::123456789012:role/host", "123456789012"


def _one(effect, condition=None, version="2012-10-17", **elements):
    statement = {"Effect": effect, "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", **elements}
    statement = {key: value for key, value in statement.items() if value is not ...}
    return {"Version": version, "Statement": [statement if condition is None else {**statement, "Condition": condition}]}


def _allowed(policy, context=None):
    return evaluate(policy, AccessRequest("kms:Decrypt", HOST, ACCOUNT, context=context or {})).allowed


@pytest.mark.parametrize(
    ("condition", "context", "expected"),
    [
        ({"StringEquals": {"k": "a"}}, {"k": "a"}, True), ({"StringEquals": {"k": "a"}}, {"k": "A"}, False), ({"StringEqualsIgnoreCase": {"K": "a"}}, {"k": "A"}, True),
        ({"StringEquals": {"k": ["a", "b"]}}, {"k": "b"}, True), ({"StringEquals": {"k": "a"}}, {}, False), ({"StringNotEquals": {"k": "a"}}, {}, True),
        ({"StringNotEquals": {"k": ["a", "b"]}}, {"k": "b"}, False), ({"StringEqualsIfExists": {"k": "a"}}, {}, True), ({"StringLike": {"k": "a*c?"}}, {"k": "abbcd"}, True),
        ({"StringEquals": {"k": "a*"}}, {"k": "ab"}, False), ({"StringNotLike": {"k": "a*"}}, {"k": "ab"}, False), ({"StringEquals": {"k": 5}}, {"k": "5"}, True),
        ({"Null": {"k": "true"}}, {}, True), ({"Null": {"k": "true"}}, {"k": "a"}, False), ({"Null": {"k": "false"}}, {"k": "a"}, True), ({"Bool": {"k": True}}, {"k": "true"}, True),
        ({"Bool": {"k": "false"}}, {"k": "true"}, False), ({"StringEquals": {"k": "a", "l": "b"}}, {"k": "a"}, False),
        ({"ForAnyValue:StringEquals": {"k": "a"}}, {"k": ["b", "a"]}, True), ({"ForAnyValue:StringEquals": {"k": "a"}}, {}, False),
        ({"ForAllValues:StringEquals": {"k": "a"}}, {}, True), ({"ForAllValues:StringEquals": {"k": "a"}}, {"k": ["a", "b"]}, False),
        ({"ForAnyValue:StringNotEquals": {"k": "a"}}, {}, False), ({"ForAnyValue:StringEqualsIfExists": {"k": "a"}}, {}, False),
        ({"StringEquals": {"k": "a"}}, {"k": ["a", "a"]}, False), ({"ArnLike": {"k": "arn:aws:iam::*:role/x"}}, {"k": "arn:aws:iam::1:role/x"}, True),
        ({"ArnLike": {"k": "arn:aws:iam::*/x"}}, {"k": "arn:aws:iam::1:role/x"}, False), ({"ArnNotLike": {"k": "arn:aws:iam::*:role/x"}}, {"k": "arn:aws:iam::1:role/y"}, True),
        ({"NumericEquals": {"k": "1"}}, {"k": "1.0"}, True), ({"NumericNotEquals": {"k": "1"}}, {"k": "2"}, True), ({"NumericLessThan": {"k": "1"}}, {"k": "1"}, False),
        ({"NumericLessThanEquals": {"k": "1"}}, {"k": "1"}, True), ({"NumericGreaterThan": {"k": "1"}}, {"k": "2"}, True), ({"NumericGreaterThanEquals": {"k": "1"}}, {"k": "0"}, False),
        ({"NumericEquals": {"k": "1"}}, {"k": "x"}, False), ({"NumericEquals": {"k": "1"}}, {"k": "NaN"}, False), ({"NumericEquals": {"k": "1"}}, {}, False),
        ({"DateLessThan": {"k": "2026-01-01T00:00:00Z"}}, {"k": "2025-12-31T23:59:59Z"}, True), ({"DateEquals": {"k": "1767225600"}}, {"k": "2026-01-01"}, True),
        ({"DateGreaterThan": {"k": "2026-01-01"}}, {"k": "99999999999999999999"}, False), ({"BinaryEquals": {"k": "QmluYXJ5"}}, {"k": "QmluYXJ5"}, True),
        ({"BinaryEquals": {"k": "QmluYXJ5"}}, {"k": "!"}, False), ({"IpAddress": {"k": "10.0.0.0/8"}}, {"k": "10.1.2.3"}, True), ({"IpAddress": {"k": "10.0.0.0/8"}}, {"k": "::1"}, False),
        ({"NotIpAddress": {"k": ["10.0.0.0/8", "::1"]}}, {"k": "11.0.0.1"}, True), ({"NotIpAddress": {"k": "10.0.0.0/8"}}, {"k": "10.0.0.1"}, False),
        ({"StringEquals": {"k": "${l}"}}, {"k": "a", "l": "a"}, True), ({"StringEquals": {"k": "${l}"}}, {"k": "a"}, False), ({"StringEquals": {"k": "${l, 'a'}"}}, {"k": "a"}, True),
        ({"StringLike": {"k": "a${*}${?}${$}*"}}, {"k": "a*?$b"}, True), ({"StringLike": {"k": "a${*}"}}, {"k": "ab"}, False), ({"StringEquals": {"k": "x${l}y"}},
        {"k": "xay", "l": ["a", "b"]}, False),
    ],
    ids=str,
)  # fmt: skip
def test_condition_operators(condition, context, expected):
    assert _allowed(_one("Allow", condition), context) is expected


def test_variables_are_plain_text_before_version_2012():
    condition = {"StringEquals": {"k": "${l}"}}
    assert _allowed(_one("Allow", condition, version="2008-10-17"), {"k": "${l}", "l": "a"})
    assert not _allowed(_one("Allow", condition, version="2008-10-17"), {"k": "a", "l": "a"})


@pytest.mark.parametrize(
    ("policy", "slug"),
    [
        (_one("Allow", {"StringMaybe": {"k": "1"}}), "operator"), (_one("Allow", {"NullIfExists": {"k": "true"}}), "operator"), (_one("Allow", {"ForSome:StringEquals": {"k": "1"}}), "operator"),
        (_one("Allow", {"StringEquals": "k"}), "condition"), (_one("Allow", []), "condition"), (_one("Allow", {"StringEquals": {"k": None}}), "condition"),
        (_one("Allow", {"Null": {"k": "maybe"}}), "condition"), (_one("Allow", {"Bool": {"k": "maybe"}}), "value"), (_one("Allow", {"NumericEquals": {"k": "x"}}), "value"),
        (_one("Allow", {"NumericEquals": {"k": "Infinity"}}), "value"), (_one("Allow", {"DateEquals": {"k": "tomorrow"}}), "value"), (_one("Allow", {"IpAddress": {"k": "10.0.0.0/33"}}), "value"),
        (_one("Allow", {"BinaryEquals": {"k": "é"}}), "value"), (_one("Allow", NotAction="kms:Encrypt"), "element"), (_one("Maybe"), "document"), (_one("Allow", Surprise=1), "element"),
        (_one("Allow", Principal={"Martian": "x"}), "principal"), (_one("Allow", Principal="x"), "principal"), (_one("Allow", Principal={}), "principal"),
        (_one("Allow", Principal={"AWS": [1]}), "principal"),
        (_one("Allow", Principal={"AWS": []}), "principal"), (_one("Allow", Principal=...), "element"), (_one("Allow", Resource=...), "element"), (_one("Allow", Action=5), "element"),
        (_one("Allow", Action=[]), "element"), (_one("Allow", Action=""), "element"), (_one("Allow", Action="k*:Decrypt"), "action"), (_one("Allow", Action="kms"), "action"),
        (_one("Allow", Sid=5), "element"),
        ({}, "document"), ({"Statement": "x"}, "document"), ({"Statement": []}, "document"), ({**_one("Allow"), "Extra": 1}, "element"), (_one("Allow", version="2026-01-01"), "version"),
        ("", "not-json"), (" " * 131_073, "too-large"), (b"\xff", "not-json"), ("[" * 100_000, "not-json"), ("5", "document"), ('{"Statement": [], "Statement": []}', "not-json"),
        ({"Statement": [5]}, "document"), ({"Statement": [{}] * 1025}, "document"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_is_not_understood_is_refused(policy, slug):
    with pytest.raises(PolicyError) as caught:
        _allowed(policy, {"k": "x"})
    assert caught.value.slug == slug


def test_text_and_map_are_the_same_policy():
    policy = _one("Allow", {"StringEquals": {"k": "a"}}, Sid="S")
    assert parse_policy(policy) == parse_policy(json.dumps(policy)) == parse_policy(json.dumps(policy).encode())
    assert parse_policy(policy)[0].name == "S"
    assert parse_policy({"Statement": policy["Statement"][0]})[0].allows


WORDS = ["Statement", "Effect", "Allow", "Principal", "Action", "Resource", "Condition", "Version", "*"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
)


@given(JSON)
def test_any_json_is_a_policy_or_our_error(value):
    try:
        parse_policy(json.dumps(value))
    except PolicyError:
        pass


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True), ("", "a", False), ("*", "", True), ("**", "abc", True), ("a*", "a", True), ("*a", "ba", True), ("a?c", "abc", True), ("a?c", "ac", False), ("?", "", False),
        ("*a*b*", "xxaxxbxx", True), ("*a*b*", "xxbxxaxx", False), ("a*b", "ab\nb", True),
    ],
)  # fmt: skip
def test_wildcards(pattern, text, expected):
    assert matches(pattern, text) is expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("arn:aws:kms:*", True),
        ("arn:*:key/k", True),
        ("arn:aws:*-*:key/k", False),
        ("arn:aws:kms:us-*-1:*:key/?", True),
        ("arn:aw*kms:us-east-1:1:key/k", False),
    ],
)
def test_wildcards_inside_a_segment_stay_there(pattern, expected):
    assert matches(pattern, "arn:aws:kms:us-east-1:1:key/k", segments=True) is expected


def test_case_is_ignored_where_asked():
    assert matches("KMS:de*", "kms:Decrypt", ignore_case=True)
    assert not matches("KMS:de*", "kms:Decrypt")


def test_an_unknown_variable_decides_nothing():
    assert matches("${x}", "a", resolve=lambda _: Unknown.UNKNOWN) is None
    assert matches("${x, 'a'}", "a", resolve=lambda _: Unknown.UNKNOWN) is None


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_matching_agrees_with_fnmatch(pattern, text):
    from fnmatch import fnmatchcase

    assert matches(pattern, text) is fnmatchcase(text, pattern)


def test_three_valued_logic():
    assert [every([True, None]), every([False, None]), every([True]), some([False, None]), some([True, None]), some([]), negate(None), negate(True)] == [
        None, False, True, None, True, False, None, False,
    ]  # fmt: skip


def test_long_patterns_take_no_exponential_time():
    assert matches("*a" * 2000 + "b", "a" * 5000) is False
