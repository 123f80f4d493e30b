"""What documents in a ledger prove about a time: real documents, and forged ones by which every rule is broken."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, ChainCache, parse_document
from nitrokit.core.ledger import FAIL, PASS, UNREACHABLE, LedgerEntry, LedgerRecord, answer, sight, verify_evidence
from nitrokit.errors import NitrokitError

DAY = datetime(2026, 6, 7, tzinfo=UTC)
HOST = "i-0123456789abcdef0"


class Fleet:
    """Makes records of one enclave's checks, with documents under one root."""

    def __init__(self, forgery):
        plan = forgery.plan()
        for certificate in plan:
            certificate.start, certificate.end = DAY - timedelta(days=30), DAY + timedelta(days=30)
        self.forgery, self.plan, self.chain, self.count = forgery, plan, forgery.make(plan), 0
        self.anchor = forgery.forge(plan, chain=self.chain).trust_anchor

    def document(self, time, module="enc1", image=1, **fields):
        pcrs = {index: bytes([image]) * 48 if index in (0, 1, 2) else bytes(48) for index in range(16)}
        stamp = int(time.timestamp() * 1000)
        return self.forgery.forge(
            self.plan, chain=self.chain, **{"module_id": f"{HOST}-{module}", "timestamp": stamp, "pcrs": pcrs, **fields}
        ).data

    def record(self, time, module="enc1", image=1, **changes):
        self.count += 1
        fields = {"document": self.document(time, module, image), "verdict": PASS, **changes}
        return LedgerRecord(
            self.count, bytes(32), LedgerEntry(entry_id=str(self.count), time=time, enclave="hello", host=HOST, source="test", **fields)
        )

    def sight(self, *arguments, **changes):
        return sight(self.record(*arguments, **changes), trust_anchor=self.anchor, chain_cache=ChainCache())

    def silent(self, time):
        return self.sight(time, verdict=UNREACHABLE, document=None, reason="no answer")


@pytest.fixture
def fleet(forgery):
    return Fleet(forgery)


def _at(hour, minute=0):
    return DAY + timedelta(hours=hour, minutes=minute)


def _verdict(sightings, start, end=None):
    found = answer(HOST, sightings, start, end or start)
    return found.verdict, [(gap[0], gap[1]) for gap in found.gaps], [run.module_id.rpartition("-")[2] for run in found.runs]


def test_two_documents_of_one_enclave_prove_all_the_time_between(fleet):
    seen = [fleet.sight(_at(8)), fleet.sight(_at(20))]
    assert _verdict(seen, _at(12)) == ("PROVEN", [], ["enc1"])
    assert _verdict(seen, _at(8)) == ("PROVEN", [], ["enc1"])
    assert _verdict(seen, _at(8), _at(20)) == ("PROVEN", [], ["enc1"])
    assert _verdict(seen, _at(21)) == ("NOT PROVEN", [(_at(21), _at(21))], ["enc1"])
    assert _verdict(seen, _at(7), _at(9)) == ("PARTLY", [(_at(7), _at(8))], ["enc1"])
    assert _verdict(seen, DAY, DAY + timedelta(days=1)) == ("PARTLY", [(DAY, _at(8)), (_at(20), _at(24))], ["enc1"])
    assert _verdict([], _at(1), _at(2)) == ("NOT PROVEN", [(_at(1), _at(2))], [])


def test_documents_of_two_enclaves_prove_nothing_between_them(fleet):
    """Even of the same image: what ran between could have been anything."""
    seen = [fleet.sight(_at(8)), fleet.sight(_at(10)), fleet.sight(_at(14), "enc2"), fleet.sight(_at(18), "enc2", verdict=FAIL)]
    assert _verdict(seen, _at(12)) == ("NOT PROVEN", [(_at(12), _at(12))], ["enc1", "enc2"])
    assert _verdict(seen, _at(9), _at(15)) == ("PARTLY", [(_at(10), _at(14))], ["enc1", "enc2"])
    assert _verdict(seen, _at(11), _at(13)) == ("NOT PROVEN", [(_at(11), _at(13))], ["enc1", "enc2"])


def test_what_lies_further_away_is_left_out(fleet):
    seen = [fleet.sight(_at(hour), f"enc{hour}") for hour in (1, 2, 3, 4, 5)]
    assert _verdict(seen, _at(3)) == ("PROVEN", [], ["enc2", "enc3", "enc4"])
    silent = [fleet.silent(_at(1, 30)), fleet.silent(_at(2, 30)), fleet.silent(_at(4, 30))]
    assert [one.time for one in answer(HOST, [*seen, *silent], _at(3), _at(3)).unproven] == [_at(2, 30)]
    alone = answer(HOST, silent, _at(2), _at(3))
    assert (len(alone.unproven), alone.verdict) == (3, "NOT PROVEN"), "with nothing proven, all that there is"


def test_overlapping_enclaves_are_both_proven(fleet):
    seen = [fleet.sight(_at(1)), fleet.sight(_at(2), "enc2", 2), fleet.sight(_at(3)), fleet.sight(_at(4), "enc2", 2)]
    assert _verdict(seen, _at(1), _at(4)) == ("PROVEN", [], ["enc1", "enc2"])
    runs = answer(HOST, seen, _at(1), _at(4)).runs
    assert [(run.first, run.last, run.pcrs[0][0]) for run in runs] == [(_at(1), _at(3), 1), (_at(2), _at(4), 2)]


def test_a_debug_enclave_proves_no_image(fleet):
    seen = [fleet.sight(_at(8), image=0), fleet.sight(_at(20), image=0)]
    found = answer(HOST, seen, _at(12), _at(12))
    assert (found.verdict, [run.is_debug for run in found.runs]) == ("NOT PROVEN", [True])


def test_an_entry_proves_only_what_its_own_document_does(fleet):
    good = fleet.document(_at(8), nonce=b"asked")
    assert fleet.sight(_at(8), document=good, nonce=b"asked", module_id=f"{HOST}-enc1", pcrs={0: b"\1" * 48, 3: bytes(48)}).document
    assert fleet.sight(_at(8, 9), document=good).time == _at(8), "the hypervisor's time, not the writer's"
    for changes, what in (
        ({"nonce": b"other"}, "another nonce"), ({"module_id": f"{HOST}-enc2"}, "another enclave"), ({"pcrs": {0: b"\2" * 48}}, "another PCR0"), ({"pcrs": {30: b"\2" * 48}}, "another PCR30"),
        ({"document": None}, "no document"), ({"document": fleet.document(_at(9))}, "at another time"), ({"document": fleet.document(_at(7))}, "at another time"),
        ({"document": fleet.document(_at(8), module_id="i-0fedcba9876543210-enc1")}, "another host"), ({"document": good[:-1] + b"x"}, "does not hold"), ({"document": b"junk"}, ""),
        ({"document": fleet.document(_at(8)), "nonce": b"asked"}, "another nonce"),
    ):  # fmt: skip
        found = fleet.sight(_at(8), **{"document": good, **changes})
        assert found.document is None and isinstance(found.refusal, NitrokitError)
        assert what in found.refusal.what + str(found.refusal.got) + str(found.refusal.expected), changes
        assert (found.refusal.code == "ledger/no-proof") == (changes.get("document") not in (b"junk", good[:-1] + b"x")), (
            "else it is the document's own fault"
        )
        assert found.time == _at(8)


def test_a_document_signed_by_aws_proves_years_later(vectors):
    index = json.loads((vectors / "attestation-index.json").read_text())
    one = next(one for one in index["valid"] if one["kind"] == "NitroEnclave" and set(one["pcrs"]["0"]) != {"0"})
    data = (vectors / one["file"]).read_bytes()
    document = parse_document(data)
    host = document.module_id.partition("-enc")[0]
    entry = LedgerEntry(
        "1", document.timestamp, "theirs", host, "test", PASS, document=data, module_id=document.module_id, pcrs=document.pcrs
    )
    assert verify_evidence(entry, trust_anchor=AWS_NITRO_ROOT_G1).pcrs == document.pcrs
