"""Appraisal: what a policy accepts, how it refuses, and what cannot be a policy."""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nitrokit.core.attestation import (
    AWS_NITRO_ROOT_G1,
    AppraisalError,
    AppraisalPolicy,
    ArchivedDocument,
    VerificationError,
    appraise,
    appraise_archived,
    parse_document,
    verify_archived_document,
    verify_document,
)
from nitrokit.core.measurements import EMPTY_PCR2, ZERO, Measurements, MeasurementsError, digest, extend, pcr4, pcr8
from nitrokit.core.nsm import NsmClient

NONCE = secrets.token_bytes(32)
ROLE, INSTANCE = "arn:aws:iam::123456789012:role/host", "i-0123456789abcdef0"
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcde"
OTHER = Measurements(digest([b"x"]), digest([b"y"]), digest([b"z"]))


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
        measurements=[measurements], nonce=NONCE, max_age=timedelta(minutes=5), host_role_arn=ROLE, instance_id=INSTANCE, user_data=b"u", public_key=b"k", module_id=MODULE_ID,
        region="us-east-1",
    )  # fmt: skip
    appraisal = appraise(verified(user_data=b"u", public_key=b"k"), policy, time=datetime.now(UTC))
    assert (appraisal.measurements, appraisal.archived) == (measurements, False)
    assert {check.number for check in appraisal.checks} == set(range(1, 19))


def test_any_of_several_sets_is_accepted_but_never_a_mixture(verified, measurements):
    appraise(verified(), AppraisalPolicy(measurements=[OTHER, measurements]), time=datetime.now(UTC))
    mixtures = [
        Measurements(measurements.pcr0, OTHER.pcr1, measurements.pcr2),
        Measurements(OTHER.pcr0, measurements.pcr1, measurements.pcr2),
    ]
    assert _refusal(verified(), AppraisalPolicy(measurements=mixtures)).code == "appraisal/measurements"


def test_a_refusal_names_every_pcr_that_differs(verified, measurements):
    locked = Measurements(digest([b"other"]), measurements.pcr1, digest([b"other app"]))
    error = _refusal(verified(), AppraisalPolicy(measurements=[locked], instance_id="i-00000000", pcrs={16: OTHER.pcr0}))
    assert [(one.index, one.expected, one.got) for one in error.differences] == [
        (0, locked.pcr0, measurements.pcr0), (2, locked.pcr2, measurements.pcr2), (4, pcr4("i-00000000"), pcr4(INSTANCE)), (16, OTHER.pcr0, None),
    ]  # fmt: skip
    assert all(f"PCR{index}" in str(error) for index in (0, 2, 4, 16))


def test_a_debug_mode_enclave_is_refused_unless_named(verified, measurements):
    error = _refusal(verified(debug=True), AppraisalPolicy(measurements=[measurements]))
    assert error.code == "appraisal/debug"
    assert {one.index for one in error.differences} == {0, 1, 2}
    policy = AppraisalPolicy(measurements=[measurements], allow_debug=True, host_role_arn=ROLE)
    appraisal = appraise(verified(debug=True), policy, time=datetime.now(UTC))
    assert appraisal.measurements is None, "nobody knows which image it is"
    assert {15}.isdisjoint(check.number for check in appraisal.checks)
    assert appraise(verified(), policy, time=datetime.now(UTC)).measurements == measurements
    elsewhere = AppraisalPolicy(measurements=[measurements], allow_debug=True, instance_id="i-00000000")
    assert _refusal(verified(debug=True), elsewhere).code == "appraisal/parent", "the parent is measured in debug mode too"


def test_another_nonce_is_refused(verified, measurements):
    policy = AppraisalPolicy(measurements=[measurements], nonce=NONCE)
    for nonce in (secrets.token_bytes(32), None, b"", NONCE[:-1], NONCE + b"\0"):
        assert _refusal(verified(nonce=nonce), policy).code == "appraisal/nonce"


def test_age_has_both_edges(verified, measurements):
    document = verified()
    policy = AppraisalPolicy(measurements=[measurements], max_age=timedelta(minutes=5))
    appraise(document, policy, time=document.timestamp + timedelta(minutes=5))
    assert _refusal(document, policy, document.timestamp + timedelta(minutes=5, milliseconds=1)).code == "appraisal/stale"
    appraise(document, policy, time=document.timestamp - timedelta(minutes=1))
    assert _refusal(document, policy, document.timestamp - timedelta(minutes=1, milliseconds=1)).code == "appraisal/future"
    assert (
        _refusal(document, AppraisalPolicy(measurements=[measurements]), document.timestamp - timedelta(hours=1)).code == "appraisal/future"
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"instance_id": "i-00000000"}, "parent"), ({"host_role_arn": "arn:aws:iam::123456789012:role/x"}, "parent"), ({"pcrs": {16: digest([b"x"])}}, "pcr"),
        ({"signing_certificate": b"x"}, "measurements"), ({"user_data": b"u"}, "binding"), ({"public_key": b"u"}, "binding"), ({"module_id": "i-1-enc1"}, "identity"),
        ({"region": "eu-west-1"}, "identity"),
    ],
    ids=str,
)  # fmt: skip
def test_another_parent_binding_or_identity_is_refused(verified, measurements, fields, code):
    document = verified(user_data=b"U", public_key=None)
    assert _refusal(document, AppraisalPolicy(measurements=[measurements], **fields)).slug == code


def test_a_signed_image_is_known_by_its_certificate(verified, measurements):
    signed = Measurements(measurements.pcr0, measurements.pcr1, measurements.pcr2, pcr8(b"certificate"))
    document = verified(measurements=signed)
    appraise(document, AppraisalPolicy(measurements=[measurements], signing_certificate=b"certificate"), time=datetime.now(UTC))
    appraise(document, AppraisalPolicy(measurements=[signed], signing_certificate=b"certificate"), time=datetime.now(UTC))
    assert _refusal(verified(), AppraisalPolicy(measurements=[signed])).code == "appraisal/measurements"


def test_a_pcr_of_the_applications_own(make_nsm, pki, measurements):
    nsm = NsmClient(make_nsm().answer)
    nsm.extend_pcr(17, b"state")
    nsm.lock_pcr(17)
    document = verify_document(nsm.attestation(), trust_anchor=pki.trust_anchor, time=datetime.now(UTC))
    appraisal = appraise(document, AppraisalPolicy(measurements=[measurements], pcrs={17: extend(ZERO, b"state")}), time=datetime.now(UTC))
    assert "PCR17" in {check.name for check in appraisal.checks}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_policy_with_a_zero_value_cannot_be_made(measurements, index):
    values = [measurements.pcr0, measurements.pcr1, measurements.pcr2]
    values[index] = bytes(48)
    with pytest.raises(AppraisalError) as caught:
        AppraisalPolicy(measurements=[Measurements(*values)])
    assert caught.value.code == "appraisal/zero-pcr"


@pytest.mark.parametrize(
    ("fields", "slug"),
    [
        ({"measurements": []}, "empty-policy"), ({"measurements": [Measurements(OTHER.pcr0, OTHER.pcr1, EMPTY_PCR2)]}, "empty-pcr2"), ({"nonce": b""}, "empty-nonce"),
        ({"pcrs": {16: bytes(48)}}, "zero-pcr"), ({"pcrs": {32: OTHER.pcr0}}, "bad-pcr"), ({"pcrs": {-1: OTHER.pcr0}}, "bad-pcr"), ({"pcrs": {16: b"x"}}, "bad-pcr"),
        ({"pcrs": {0: OTHER.pcr1}}, "contradiction"), ({"pcrs": {4: OTHER.pcr1}, "instance_id": INSTANCE}, "contradiction"),
        ({"measurements": [Measurements(OTHER.pcr0, OTHER.pcr1, OTHER.pcr2, OTHER.pcr0)], "signing_certificate": b"q"}, "contradiction"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_a_policy(fields, slug):
    with pytest.raises(AppraisalError) as caught:
        AppraisalPolicy(**{"measurements": [OTHER], **fields})
    assert caught.value.slug == slug


def test_a_policy_with_the_arn_of_something_else_cannot_be_made():
    with pytest.raises(MeasurementsError):
        AppraisalPolicy(measurements=[OTHER], host_role_arn="arn:aws:iam::123456789012:instance-profile/host")


def test_a_policy_is_applied_to_verified_documents_alone(make_nsm, measurements):
    unverified = parse_document(NsmClient(make_nsm().answer).attestation())
    policy = AppraisalPolicy(measurements=[measurements])
    with pytest.raises(TypeError):
        appraise(unverified, policy, time=datetime.now(UTC))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        appraise_archived(unverified, policy)  # type: ignore[arg-type]


ARCHIVED = next((Path(__file__).parents[2] / "vectors" / "attestation").glob("anjuna*5a2eac9d.bin")).read_bytes()


def test_archived_evidence_is_verified_at_its_own_time_and_says_so():
    document = verify_archived_document(ARCHIVED, trust_anchor=AWS_NITRO_ROOT_G1)
    assert isinstance(document, ArchivedDocument)
    assert document.validation_time == document.timestamp < datetime.now(UTC)
    one = Measurements(document.pcrs[0], document.pcrs[1], document.pcrs[2])
    appraisal = appraise_archived(document, AppraisalPolicy(measurements=[one], module_id=document.module_id))
    assert (appraisal.archived, appraisal.measurements) == (True, one)
    assert 14 not in {check.number for check in appraisal.checks}
    with pytest.raises(AppraisalError) as caught:
        appraise_archived(document, AppraisalPolicy(measurements=[OTHER]))
    assert caught.value.slug == "measurements"
    with pytest.raises(AppraisalError) as caught:
        appraise_archived(document, AppraisalPolicy(measurements=[one], max_age=timedelta(days=1)))
    assert caught.value.slug == "archived-age"
    with pytest.raises(TypeError):
        appraise(document, AppraisalPolicy(measurements=[one]), time=datetime.now(UTC))  # type: ignore[arg-type]


def test_archived_evidence_of_another_root_is_refused(pki):
    with pytest.raises(VerificationError) as caught:
        verify_archived_document(ARCHIVED, trust_anchor=pki.trust_anchor)
    assert caught.value.slug == "root"
