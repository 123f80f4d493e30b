"""``nitrokit check-policy POLICY``: who can open data under this key policy without the attestation of an accepted image?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nitrokit.cli.files import read_file
from nitrokit.cli.output import JsonOption, printable, result
from nitrokit.errors import UsageError

if TYPE_CHECKING:
    from nitrokit.core.key_policy import Finding, Grant


def check_policy(
    policy: Annotated[Path, typer.Argument(help="The key policy, as `aws kms get-key-policy` prints it, or - for stdin.")],
    account: Annotated[str, typer.Option("--account", help="The key's AWS account, 12 digits.")],
    grants: Annotated[Path | None, typer.Option("--grants", help="What `aws kms list-grants` prints for the key.")] = None,
    partition: Annotated[str, typer.Option("--partition", help="The AWS partition.")] = "aws",
    fail_on: Annotated[str, typer.Option("--fail-on", help="Exit 1 for findings of this severity or worse.")] = "high",
    as_json: JsonOption = False,
) -> None:
    """Find the ways round a key policy's attestation conditions."""
    from nitrokit.core.key_policy import Severity, analyze_key_policy

    if not (account.isdigit() and len(account) == 12):
        raise UsageError("bad-account", "not an AWS account", got=account, expected="12 digits", do="give the number of the key's account")
    limit = next((one for one in Severity if one.name.lower() == fail_on), None)
    if limit is None:
        names = ", ".join(one.name.lower() for one in Severity)
        raise UsageError("bad-severity", "no such severity", got=fail_on, expected=names, do="name one of these")
    document = _policy(_read(policy))
    _check_partition(document, partition)
    found = analyze_key_policy(document, account=account, partition=partition, grants=_grants(grants))
    sets = _sets(document)
    failed = any(one.severity >= limit for one in found)
    verdict = "FAIL" if failed else "PASS"
    value = {"verdict": verdict, "findings": [one.as_dict() for one in found], "sets": sets}
    result(value, as_json=as_json, human=lambda: _print(verdict, found, sets))
    if failed:
        raise typer.Exit(1)


def _check_partition(document: str | bytes, partition: str) -> None:
    """A policy of another partition than the key's would be one of strangers, who open nothing: a PASS by a misspelt word. Raises UsageError."""
    text = document if isinstance(document, str) else document.decode(errors="replace")
    named = set(re.findall(r"arn:(aws[a-z-]*):", text))
    if named and partition not in named:
        raise UsageError(
            "bad-partition",
            "the policy is of another partition",
            got=partition,
            expected=" or ".join(sorted(named)),
            do="name it with --partition",
        )


def _sets(document: Any) -> list[dict[str, Any]]:
    """The measurements that open data, by statement, and until when: a rollover's old set has a date."""
    from nitrokit.core.key_policy import parse_policy, retires
    from nitrokit.core.key_policy.adversaries import wanted_by

    found = []
    for statement in parse_policy(document):
        if statement.allows and (wanted := wanted_by(statement)):
            date = retires(statement)
            pcrs = {name.rpartition(":")[2]: values for name, values in wanted.items()}
            until = None if date is None else date.astimezone(UTC).isoformat()
            found.append({"statement": statement.name, "pcrs": pcrs, "until": until, "past": date is not None and date < datetime.now(UTC)})
    return found


def _print(verdict: str, found: Sequence[Finding], sets: Sequence[dict[str, Any]]) -> None:
    print("\n".join(map(printable, _lines(verdict, found, sets))))


def _lines(verdict: str, found: Sequence[Finding], sets: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{verdict}  {len(found)} findings" if found else f"{verdict}  no way round the attestation"
    for entry in sets:
        pcrs = ", ".join(f"{name} {'|'.join(value[:12] for value in values)}…" for name, values in entry["pcrs"].items())
        until = f" until {entry['until']}" + (" (past: retire it)" if entry["past"] else "") if entry["until"] else ""
        yield f"  opens for {pcrs}{until} ({entry['statement']})"
    for one in found:
        yield ""
        yield f"{one.severity.name} {one.id}" + (f" in {one.statement}" if one.statement else "")
        yield f"  why      {one.reason}"
        yield from (f"  {name:<8} {', '.join(values)}" for name, values in (("who", one.principals), ("actions", one.actions)) if values)
        yield f"  do this  {one.fix}"


def _read(path: Path) -> bytes:
    return sys.stdin.buffer.read() if str(path) == "-" else read_file(path)


def _policy(data: bytes) -> str | bytes:
    """The policy itself, or out of what the AWS CLI prints around it: {"Policy": "…"}."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data  # the analysis tells what is wrong
    inside = value.get("Policy") if isinstance(value, dict) else None
    return inside if isinstance(inside, str) else data


def _grants(path: Path | None) -> list[Grant]:
    from nitrokit.core.key_policy import Grant

    if path is None:
        return []
    data = _read(path)
    try:
        items: list[dict[str, Any]] = json.loads(data)["Grants"]
        return [Grant(str(one["GrantId"]), str(one["GranteePrincipal"]), tuple(map(str, one["Operations"]))) for one in items]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UsageError(
            "bad-grants",
            f"{path} is not a list of grants",
            got=repr(data[:40]),
            expected='{"Grants": [{"GrantId", "GranteePrincipal", "Operations"}]}',
            do="write it with `aws kms list-grants --key-id …`",
        ) from error
