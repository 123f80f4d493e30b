"""CBOR: what is refused beyond what a CBOR library refuses, and what is read all the same."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core import cbor

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_round_trip(value):
    assert cbor.decode(cbor.encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_our_error(data):
    try:
        value = cbor.decode(data)
    except cbor.CborError:
        return
    assert value == cbor2.loads(data), "what we accept, we read as everybody does"


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        ("1817", "non-minimal"), ("1900ff", "non-minimal"), ("1a0000ffff", "non-minimal"), ("1b00000000ffffffff", "non-minimal"), ("3817", "non-minimal"), ("5801aa", "non-minimal"),
        ("a2616101616102", "invalid"), ("bf616101616102ff", "invalid"), ("61ff", "invalid"), ("0000", "trailing-bytes"), ("c11a514b67b0", "tag"), ("f93c00", "simple-value"),
        ("f7", "simple-value"), ("ff", "simple-value"), ("", "truncated"), ("82", "truncated"), ("5f4101", "truncated"), ("9f", "truncated"), ("42aa", "truncated"), ("19aa", "truncated"),
        ("1c", "reserved"), ("1f", "reserved"), ("3f", "reserved"), ("5f6101ff", "bad-chunk"), ("5f5f4101ffff", "bad-chunk"), ("bf6161ff", "odd-map"), ("81" * 20 + "00", "too-deep"),
        ("9f" * 20, "too-deep"),
    ],
)  # fmt: skip
def test_lenient_cbor_is_refused(data, slug):
    with pytest.raises(cbor.CborError) as caught:
        cbor.decode(bytes.fromhex(data))
    assert caught.value.slug == slug


@pytest.mark.parametrize(
    ("data", "value"),
    [("18", None), ("1818", 24), ("190100", 256), ("1a00010000", 1 << 16), ("1b0000000100000000", 1 << 32), ("3818", -25)],
)
def test_the_shortest_form_is_read(data, value):
    if value is not None:
        assert cbor.decode(bytes.fromhex(data)) == value


def test_definite_and_indefinite_forms_are_the_same():
    assert cbor.decode(bytes.fromhex("a161610a")) == cbor.decode(bytes.fromhex("bf61610aff")) == {"a": 10}
    assert cbor.decode(bytes.fromhex("5f42010243030405ff")) == bytes([1, 2, 3, 4, 5])
    assert cbor.decode(bytes.fromhex("7f61616162ff")) == "ab"
    assert cbor.decode(bytes.fromhex("9f01f6ff")) == [1, None]


def test_limits_are_those_that_the_caller_names():
    assert cbor.decode(b"\x81\x00", max_depth=2) == [0]
    for options, slug in (({"max_depth": 1}, "too-deep"), ({"max_size": 1}, "too-large")):
        with pytest.raises(cbor.CborError) as caught:
            cbor.decode(b"\x81\x00", **options)
        assert caught.value.slug == slug


def test_a_huge_declared_length_costs_nothing():
    for head in ("9b7fffffffffffffff", "bb7fffffffffffffff", "5b7fffffffffffffff"):
        with pytest.raises(cbor.CborError) as caught:
            cbor.decode(bytes.fromhex(head))
        assert caught.value.slug == "truncated"
