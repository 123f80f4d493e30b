"""Appraisal: what a policy accepts and how it refuses."""

import secrets
from datetime import UTC, datetime, timedelta

import pytest

from nitrokit.core.attestation import AppraisalError, AppraisalPolicy, appraise, verify_document
from nitrokit.core.measurements import EMPTY_PCR2, Measurements, digest, pcr4
from nitrokit.core.nsm import NsmClient

NONCE = secrets.token_bytes(32)


@pytest.fixture
def verified(make_nsm, pki):
    def make(*, nonce=NONCE, user_data=None, public_key=None, **changes):
        document = NsmClient(make_nsm(**changes).answer).attestation(nonce=nonce, user_data=user_data, public_key=public_key)
        return verify_document(document, trust_anchor=pki.trust_anchor, time=datetime.now(UTC))

    return make


def _refusal(document, policy, time=None):
    with pytest.raises(AppraisalError) as caught:
        appraise(document, policy, time=time or datetime.now(UTC))
    return caught.value


def test_the_locked_image_passes_and_every_check_is_named(verified, measurements):
    policy = AppraisalPolicy(
        measurements=[measurements],
        nonce=NONCE,
        max_age=timedelta(minutes=5),
        host_role_arn="arn:aws:iam::123456789012:role/host",
        instance_id="i-0123456789abcdef0",
        user_data=b"u",
    )
    appraisal = appraise(verified(user_data=b"u"), policy, time=datetime.now(UTC))
    assert appraisal.measurements == measurements
    assert {check.number for check in appraisal.checks} == set(range(1, 18))


def test_any_of_several_sets_is_accepted_but_never_a_mixture(verified, measurements):
    other = Measurements(digest([b"x"]), digest([b"y"]), digest([b"z"]))
    appraise(verified(), AppraisalPolicy(measurements=[other, measurements]), time=datetime.now(UTC))
    mixtures = [
        Measurements(measurements.pcr0, other.pcr1, measurements.pcr2),
        Measurements(other.pcr0, measurements.pcr1, measurements.pcr2),
    ]
    error = _refusal(verified(), AppraisalPolicy(measurements=mixtures))
    assert error.code == "appraisal/measurements"


def test_a_refusal_names_every_pcr_that_differs(verified, measurements):
    locked = Measurements(digest([b"other"]), measurements.pcr1, digest([b"other app"]))
    error = _refusal(verified(), AppraisalPolicy(measurements=[locked]))
    assert [(one.index, one.expected, one.got) for one in error.differences] == [
        (0, locked.pcr0, measurements.pcr0),
        (2, locked.pcr2, measurements.pcr2),
    ]


def test_a_debug_enclave_is_refused_by_default_and_keeps_pcr4(verified, measurements):
    document = verified(debug=True)
    assert document.is_debug
    assert document.pcrs[4] == pcr4("i-0123456789abcdef0")
    assert _refusal(document, AppraisalPolicy(measurements=[measurements])).code == "appraisal/debug"
    appraise(document, AppraisalPolicy(measurements=[measurements], allow_debug=True), time=datetime.now(UTC))


@pytest.mark.parametrize("nonce", [None, b"", NONCE[:-1], bytes(32)])
def test_another_nonce_is_refused(verified, measurements, nonce):
    assert _refusal(verified(nonce=nonce), AppraisalPolicy(measurements=[measurements], nonce=NONCE)).code == "appraisal/nonce"


def test_age_is_checked_at_both_edges(verified, measurements):
    document = verified()
    policy = AppraisalPolicy(measurements=[measurements], max_age=timedelta(minutes=5))
    appraise(document, policy, time=document.timestamp + timedelta(minutes=5))
    assert _refusal(document, policy, document.timestamp + timedelta(minutes=5, milliseconds=1)).code == "appraisal/stale"
    appraise(document, policy, time=document.timestamp - timedelta(minutes=1))
    assert _refusal(document, policy, document.timestamp - timedelta(minutes=1, milliseconds=1)).code == "appraisal/future"


def test_another_parent_or_binding_is_refused(verified, measurements):
    assert _refusal(verified(), AppraisalPolicy(measurements=[measurements], instance_id="i-other")).code == "appraisal/parent"
    assert (
        _refusal(verified(), AppraisalPolicy(measurements=[measurements], host_role_arn="arn:aws:iam::1:role/x")).code == "appraisal/parent"
    )
    assert _refusal(verified(), AppraisalPolicy(measurements=[measurements], user_data=b"u")).code == "appraisal/binding"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_policy_with_a_zero_value_cannot_be_made(measurements, index):
    values = [measurements.pcr0, measurements.pcr1, measurements.pcr2]
    values[index] = bytes(48)
    with pytest.raises(AppraisalError) as caught:
        AppraisalPolicy(measurements=[Measurements(*values)])
    assert caught.value.code == "appraisal/zero-pcr"


def test_an_empty_policy_and_an_empty_pcr2_cannot_be_made(measurements):
    with pytest.raises(AppraisalError):
        AppraisalPolicy(measurements=[])
    with pytest.raises(AppraisalError):
        AppraisalPolicy(measurements=[Measurements(measurements.pcr0, measurements.pcr1, EMPTY_PCR2)])
