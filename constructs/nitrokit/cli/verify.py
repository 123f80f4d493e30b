"""``nitrokit verify DOCUMENT…``: are these attestation documents authentic, and are they of an image that I accept?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nitrokit.cli.output import JsonOption, printable, result
from nitrokit.cli.trust import read_certificate, trust_anchor
from nitrokit.errors import NitrokitError, UsageError

if TYPE_CHECKING:
    from nitrokit.cli.evidence import Evidence
    from nitrokit.cli.locks import LockedSet
    from nitrokit.core.attestation import AppraisalPolicy, ChainCache, TrustAnchor
    from nitrokit.core.measurements import Measurements


def verify(
    documents: Annotated[
        list[Path], typer.Argument(help="Attestation documents: files, or - for stdin; raw, hex, base64, or inside a JSON.")
    ],
    measurements: Annotated[
        list[Path] | None,
        typer.Option("--measurements", "-m", help="measurements.json to accept, or an image folder; may be repeated (any of)."),
    ] = None,
    nonce: Annotated[str | None, typer.Option("--nonce", help="The nonce you asked for, in hex.")] = None,
    max_age: Annotated[int | None, typer.Option("--max-age", help="How old a document may be, in seconds.", min=1)] = None,
    role_arn: Annotated[str | None, typer.Option("--role-arn", help="The IAM role that the parent must have (PCR3).")] = None,
    instance_id: Annotated[str | None, typer.Option("--instance-id", help="The instance that the parent must be (PCR4).")] = None,
    signing_certificate: Annotated[
        Path | None, typer.Option("--signing-certificate", help="The certificate that must have signed the image (PCR8), DER or PEM.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="The AWS Region that the enclave must run in.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Trust anchor, DER or PEM. Default: AWS's Nitro Enclaves root G1.")] = None,
    at: Annotated[datetime | None, typer.Option("--at", help="Validation time (UTC). Default: now.")] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="Old evidence: verify each document at its own timestamp. It says nothing about now.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify attestation documents and appraise them. Against locked measurements (exit 1: no)."""
    from nitrokit.cli.documents import read_documents
    from nitrokit.cli.locks import read_locks
    from nitrokit.core.attestation import AppraisalPolicy, ChainCache

    if archived and (at is not None or max_age is not None):
        raise UsageError(
            "archived", "archived evidence has a time of its own", got="--at or --max-age beside --archived", do="leave one out"
        )
    sets = read_locks(measurements or [])
    named = (nonce, max_age, role_arn, instance_id, signing_certificate, region)
    if not sets and any(one is not None for one in named):
        raise UsageError(
            "no-measurements",
            "nothing to appraise against",
            expected="--measurements beside what else you demand",
            do="name an image's folder with -m",
        )
    policy = None if not sets else AppraisalPolicy(
        measurements=list(sets),
        nonce=_nonce(nonce),
        max_age=None if max_age is None else timedelta(seconds=max_age),
        host_role_arn=role_arn,
        instance_id=instance_id,
        signing_certificate=read_certificate(signing_certificate) if signing_certificate else None,
        region=region,
    )  # fmt: skip
    time = None if archived else (at.replace(tzinfo=UTC) if at.tzinfo is None else at) if at else datetime.now(UTC)
    anchor, cache = trust_anchor(root), ChainCache()
    found = [_judge(label, data, anchor, time, policy, sets, cache) for place in documents for label, data in read_documents(place)]
    _print(found, as_json)


def _print(found: list[Evidence], as_json: bool) -> None:
    from nitrokit.cli.evidence import FAIL

    failed = any(one.verdict == FAIL for one in found)
    verdict = FAIL if failed else found[0].verdict

    def human() -> None:
        print("\n\n".join("\n".join(map(printable, one.lines())) for one in found))

    result({"verdict": verdict, "documents": [one.as_dict() for one in found]}, as_json=as_json, human=human)
    if failed:
        raise typer.Exit(1)


def _judge(
    label: str,
    data: bytes,
    anchor: TrustAnchor,
    time: datetime | None,
    policy: AppraisalPolicy | None,
    sets: dict[Measurements, LockedSet],
    cache: ChainCache,
) -> Evidence:
    """Everything about one document. ``time`` None: its own."""
    from nitrokit.cli.documents import STARTS
    from nitrokit.cli.evidence import Evidence
    from nitrokit.core import attestation

    evidence = Evidence(label, time)
    try:
        if not data.startswith(STARTS):
            raise attestation.DocumentError(
                "unrecognized",
                "no attestation document in any form that is known",
                got=repr(data[:24]),
                expected="a COSE_Sign1: raw, in hex or base64, or inside a JSON",
                do="check that this is the document itself, whole",
            )
        evidence.parsed = attestation.parse_document(data)
        evidence.time = time or evidence.parsed.timestamp
        evidence.chain = attestation.summarize_chain(evidence.parsed)
        if time is None:
            archived = attestation.verify_archived_document(data, trust_anchor=anchor, chain_cache=cache)
            evidence.verified = archived
            evidence.appraisal = attestation.appraise_archived(archived, policy) if policy else None
        else:
            verified = attestation.verify_document(data, trust_anchor=anchor, time=time, chain_cache=cache)
            evidence.verified = verified
            evidence.appraisal = attestation.appraise(verified, policy, time=time) if policy else None
        if evidence.appraisal and evidence.appraisal.measurements:
            locked = sets[evidence.appraisal.measurements]
            evidence.lock = str(locked)
            locked.require_accepted_at(evidence.time)
    except NitrokitError as error:
        evidence.error = error
    return evidence


def _nonce(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(
            "bad-nonce", "the nonce is not hex", got=text, expected="an even number of hex digits", do="give the nonce that was sent"
        ) from error
