"""Path validation: each rule broken by itself, with the edge that still holds."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import ExtensionOID

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, ChainCache, VerificationError, parse_document, summarize_chain, verify_document
from nitrokit.core.cms import _tlv

SECOND = timedelta(seconds=1)
OID = x509.ObjectIdentifier("1.2.3.4")


def _verify(forged, now, **options):
    return verify_document(forged.data, trust_anchor=forged.trust_anchor, time=now, **options)


def _refusal(forged, now):
    with pytest.raises(VerificationError) as caught:
        _verify(forged, now)
    return caught.value.slug


def _forged(forgery, number, **changes):
    plan = forgery.plan()
    for key, value in changes.items():
        setattr(plan[number], key, value)
    return forgery.forge(plan)


def test_the_plain_path_holds(forgery):
    document = _verify(forgery.forge(), forgery.now)
    assert (document.module_id, document.region) == (forgery.module_id, "eu-west-1")


@pytest.mark.parametrize("number", range(5))
def test_every_certificate_must_be_valid_both_ends_included(forgery, number):
    assert _verify(_forged(forgery, number, start=forgery.now), forgery.now)
    assert _verify(_forged(forgery, number, end=forgery.now), forgery.now)
    assert _refusal(_forged(forgery, number, start=forgery.now + SECOND), forgery.now) == "validity"
    assert _refusal(_forged(forgery, number, end=forgery.now - SECOND), forgery.now) == "validity"


@pytest.mark.parametrize("number", range(4))
def test_every_issuer_must_be_a_ca_that_may_sign(forgery, number):
    for changes in (
        {"constraints": None},
        {"constraints": x509.BasicConstraints(False, None)},
        {"usage": None},
        {"usage": forgery.usage(digital_signature=True, crl_sign=True)},
    ):
        assert _refusal(_forged(forgery, number, **changes), forgery.now) == "not-a-ca"


@pytest.mark.parametrize(("number", "below"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_the_path_below_is_not_longer_than_allowed(forgery, number, below):
    assert _verify(_forged(forgery, number, constraints=x509.BasicConstraints(True, below)), forgery.now)
    if below:
        assert _refusal(_forged(forgery, number, constraints=x509.BasicConstraints(True, below - 1)), forgery.now) == "path-length"


def test_the_leaf_signs_documents_and_issues_nothing(forgery):
    assert _verify(_forged(forgery, 4, constraints=None), forgery.now)
    assert _refusal(_forged(forgery, 4, constraints=x509.BasicConstraints(True, None)), forgery.now) == "leaf-is-ca"
    assert _refusal(_forged(forgery, 4, usage=None), forgery.now) == "leaf-usage"
    assert _refusal(_forged(forgery, 4, usage=forgery.usage(key_cert_sign=True)), forgery.now) == "leaf-usage"


@pytest.mark.parametrize("number", range(1, 5))
def test_every_certificate_is_issued_by_its_predecessor(forgery, number):
    assert _refusal(_forged(forgery, number, issuer="somebody else"), forgery.now) == "issuer"
    assert _refusal(_forged(forgery, number, signer=forgery.keys[5]), forgery.now) == "certificate-signature"
    assert _refusal(_forged(forgery, number, hash=SHA256()), forgery.now) == "algorithm"


def test_the_algorithm_inside_must_be_the_one_outside(forgery):
    plan = forgery.plan()
    chain = forgery.make(plan)
    sha384, sha256 = bytes.fromhex("06082a8648ce3d040303"), bytes.fromhex("06082a8648ce3d040302")
    at = chain[4].index(sha384)
    chain[4] = chain[4][:at] + sha256 + chain[4][at + len(sha384) :]
    assert _refusal(forgery.forge(plan, chain=chain), forgery.now) == "issuer"


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()],
    ids=["P-256", "RSA", "Ed25519"],
)
def test_another_kind_of_key_is_refused(forgery, key):
    assert _refusal(_forged(forgery, 4, key=key), forgery.now) == "key"


@pytest.mark.parametrize("number", range(5))
def test_what_we_do_not_process_must_not_be_critical(forgery, number):
    assert _verify(_forged(forgery, number, extra=[(x509.UnrecognizedExtension(OID, b"\x05\0"), False)]), forgery.now)
    assert _refusal(_forged(forgery, number, extra=[(x509.UnrecognizedExtension(OID, b"\x05\0"), True)]), forgery.now) == "extension"
    constraints = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=[x509.DNSName("x")])
    for critical in (True, False):
        assert _refusal(_forged(forgery, number, extra=[(constraints, critical)]), forgery.now) == "extension"


@pytest.mark.parametrize("number", range(1, 5))
def test_a_malformed_certificate_is_our_error(forgery, number):
    plan = forgery.plan()
    chain = forgery.make(plan)
    for broken in (b"\0", chain[number][:-1], chain[number] + b"\0"):
        changed = [*chain[:number], broken, *chain[number + 1 :]]
        assert _refusal(forgery.forge(plan, chain=changed), forgery.now) == "certificate"


def test_malformed_extensions_and_keys_are_our_errors(forgery):
    plan = forgery.plan()
    plan[4].extra = [(x509.UnrecognizedExtension(ExtensionOID.KEY_USAGE, b"\x05\0"), False)]
    plan[4].usage = None
    assert _refusal(forgery.forge(plan), forgery.now) == "certificate"
    chain = forgery.make(forgery.plan())
    p384, unknown = bytes.fromhex("06052b81040022"), bytes.fromhex("06052b8104007f")
    assert _refusal(forgery.forge(chain=[chain[0].replace(p384, unknown), *chain[1:]]), forgery.now) == "key"


def test_a_bundle_may_be_the_root_alone(forgery):
    plan = forgery.plan()
    assert _verify(forgery.forge([plan[0], plan[4]]), forgery.now)


def test_another_leaf_key_another_root_and_a_naive_time_are_refused(forgery):
    forged = forgery.forge(key=forgery.keys[5])
    assert _refusal(forged, forgery.now) == "signature"
    with pytest.raises(VerificationError) as caught:
        verify_document(forgery.forge().data, trust_anchor=AWS_NITRO_ROOT_G1, time=forgery.now)
    assert caught.value.slug == "root"
    assert _refusal(forgery.forge(), forgery.now.replace(tzinfo=None)) == "naive-time"


def test_the_cache_serves_what_held_and_nothing_else(forgery, monkeypatch):
    walked: list[int] = []
    real = x509.Certificate.verify_directly_issued_by

    def watched(issuer, certificate, number):
        walked.append(number)
        real(certificate, issuer)

    monkeypatch.setattr("nitrokit.core.attestation.path._check_link", watched)
    cache, forged = ChainCache(), forgery.forge()
    _verify(forged, forgery.now, chain_cache=cache)
    assert walked == [1, 2, 3, 4]
    _verify(forged, forgery.now, chain_cache=cache)
    assert walked == [1, 2, 3, 4], "the same leaf"
    plan = forgery.plan()
    chain = forgery.make(plan)
    parsed = parse_document(forged.data)
    plan[4].subject = "another enclave"
    other = forgery.forge(chain=[*parsed.cabundle, forgery.make(plan)[4]])
    assert list(parsed.cabundle) != chain[:4], "signatures are made anew"
    _verify(other, forgery.now, chain_cache=cache)
    assert walked == [1, 2, 3, 4, 4], "another leaf of the same issuers"


def test_the_cache_honours_validity_and_its_bound(forgery):
    cache = ChainCache(max_entries=2)
    short = _forged(forgery, 2, end=forgery.now + SECOND)
    _verify(short, forgery.now, chain_cache=cache)
    with pytest.raises(VerificationError) as caught:
        _verify(short, forgery.now + 2 * SECOND, chain_cache=cache)
    assert caught.value.slug == "validity"
    with pytest.raises(VerificationError):
        _verify(short, forgery.now - timedelta(hours=2), chain_cache=cache)
    for _ in range(3):
        _verify(forgery.forge(), forgery.now, chain_cache=cache)
        assert len(cache) == 2
    with pytest.raises(VerificationError) as caught:
        _verify(forgery.forge(key=forgery.keys[5]), forgery.now, chain_cache=cache)
    assert caught.value.slug == "signature", "a cached path says nothing about the document's own signature"


def test_the_cache_is_not_asked_before_the_anchor(forgery):
    cache, forged = ChainCache(), forgery.forge()
    _verify(forged, forgery.now, chain_cache=cache)
    with pytest.raises(VerificationError) as caught:
        verify_document(forged.data, trust_anchor=AWS_NITRO_ROOT_G1, time=forgery.now, chain_cache=cache)
    assert caught.value.slug == "root"


def test_threads_share_a_cache(forgery):
    from concurrent.futures import ThreadPoolExecutor

    cache = ChainCache(max_entries=4)
    documents = [forgery.forge() for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        verified = list(pool.map(lambda one: _verify(one, forgery.now, chain_cache=cache), documents * 20))
    assert len(verified) == 60
    assert len(cache) <= 4


def test_a_chain_is_told_for_people_whoever_signed_it(forgery):
    summaries = summarize_chain(parse_document(forgery.forge().data))
    assert [one.subject for one in summaries] == ["root", "regional", "zonal", "instance", f"{forgery.module_id}.eu-west-1.aws"]
    assert all(len(one.sha256) == 64 and one.not_before < forgery.now < one.not_after for one in summaries)
    with pytest.raises(VerificationError):
        summarize_chain(parse_document(forgery.forge(certificate=b"\0").data))


def test_a_region_comes_from_a_name_of_the_usual_form_alone(forgery):
    for subject, region in (
        ("x", None),
        (f"{forgery.module_id}.", None),
        (f"{forgery.module_id}.us-gov-west-1.aws", "us-gov-west-1"),
        (f"{forgery.module_id}.nowhere.aws", None),
    ):
        assert _verify(_forged(forgery, 4, subject=subject), forgery.now).region == region


def test_a_name_that_nobody_can_read_has_no_region(forgery):
    """A leaf whose name is no UTF-8, signed all the same."""
    plan = forgery.plan()
    plan[4].subject = "unreadable"
    chain = forgery.make(plan)
    leaf = x509.load_der_x509_certificate(chain[4])
    body = leaf.tbs_certificate_bytes.replace(b"unreadable", b"\xff" * 10)
    signature = forgery.keys[3].sign(body, ec.ECDSA(SHA384()))
    chain[4] = _tlv(0x30, body + bytes.fromhex("300a06082a8648ce3d040303") + _tlv(0x03, b"\0" + signature))
    document = _verify(forgery.forge(plan, chain=chain), forgery.now)
    assert document.region is None
