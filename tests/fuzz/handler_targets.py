"""What the Lambdas are given by those whom nobody trusts: a host's answer, and a request to verify a document."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from nitrokit.core.measurements import Measurements
from nitrokit.handlers.hosts import Output, answer_of
from nitrokit.handlers.verify_attestation import answer, body_of


def _host_answer(data: bytes) -> None:
    found = answer_of(Output("i-0123456789abcdef0", data.decode(errors="replace")), bytes(32))
    assert (found.document is None) != (found.reason is None)


def _verify_request(data: bytes) -> None:
    found = answer(body_of({"body": data.decode(errors="replace")}), {}, datetime.now)
    assert (found["verdict"], len(found["checks"])) == ("FAIL", 18)  # nobody forges AWS's signature by chance


TARGETS: dict[str, Callable[[bytes], None]] = {"host_answer": _host_answer, "verify_request": _verify_request}


def _made_request() -> list[str]:
    reference = Measurements(b"0" * 48, b"1" * 48, b"2" * 48).as_object()
    return [
        json.dumps(
            {"document": "0oRDoQE4IqBAQA==", "nonce": "bm9uY2U=", "reference": reference, "pcrs": {"16": "ab" * 48}, "max_age_seconds": 5}
        ),
        json.dumps({"document": "", "archived": True, "reference": reference, "region": "eu-west-1"}),
    ]


MADE: dict[str, Callable[[], list[str]]] = {
    "host_answer": lambda: ['{"document": "ZG9j", "enclave_id": "i-1-enc1"}'],
    "verify_request": _made_request,
}
