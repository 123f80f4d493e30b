"""``nitrokit ledger``: which version was it running then, is the ledger whole, and a copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nitrokit.cli.output import JsonOption, result, talk
from nitrokit.errors import UsageError

app = typer.Typer(
    name="ledger", help="The ledger of attestation: which code held the data when.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path | None, typer.Argument(help="An export of the ledger; instead of --table.")]
Table = Annotated[str | None, typer.Option("--table", help="The DynamoDB table of the live ledger.")]
Region = Annotated[str | None, typer.Option("--region", help="Its AWS Region. Default: the environment's.")]
Key = Annotated[Path | None, typer.Option("--key", help="The ledger's public key, PEM or DER, from where you trust it.")]
KmsKey = Annotated[str | None, typer.Option("--kms-key", help="Or the KMS key that signs it: its public key is asked for.")]


@app.command("at")
def at(
    time: Annotated[str, typer.Argument(help="A day (2026-06-07) or a moment (2026-06-07T12:00Z); UTC where no offset is named.")],
    folder: Folder = None,
    enclave: Annotated[str, typer.Option("--enclave", help="The enclave's name.")] = "",
    host: Annotated[str | None, typer.Option("--host", help="The parent instance. Default: every one.")] = None,
    measurements: Annotated[
        list[Path] | None,
        typer.Option("--measurements", "-m", help="measurements.json or image folder, to name what is found; its git history too."),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Trust anchor, DER or PEM. Default: AWS's Nitro Enclaves root G1.")] = None,
    table: Table = None,
    region: Region = None,
    key: Key = None,
    kms_key: KmsKey = None,
    as_json: JsonOption = False,
) -> None:
    """Say which measurements are proven for a day or a moment. Exit 1: none."""
    from nitrokit.cli.ledger_answer import ask, parse_time
    from nitrokit.cli.ledger_render import answers_as_dict, answers_lines
    from nitrokit.cli.ledger_source import open_ledger
    from nitrokit.cli.ledger_versions import read_versions
    from nitrokit.cli.trust import trust_anchor

    if not enclave:
        raise UsageError("no-enclave", "no enclave is named", expected="--enclave NAME", do="give the name of its enclave.toml")
    start, end = parse_time(time)
    versions = read_versions(measurements or [])
    opened = open_ledger(folder, table, region, key, kms_key)
    found = ask(opened, enclave, host, start, end, trust_anchor(root))
    result(
        answers_as_dict(found, opened, versions), as_json=as_json, human=lambda: print("\n".join(answers_lines(found, opened, versions)))
    )
    if not found.proven:
        raise typer.Exit(1)


@app.command("verify")
def verify(
    folder: Folder = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A checkpoint kept from a former run, which the ledger must continue; may be repeated."),
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Keep the ledger's last checkpoint here, for the next run.")] = None,
    table: Table = None,
    region: Region = None,
    key: Key = None,
    kms_key: KmsKey = None,
    as_json: JsonOption = False,
) -> None:
    """Read the whole ledger, and believe nothing. Any edit, gap, fork or truncation fails (exit 1)."""
    from nitrokit.cli.ledger_source import open_ledger
    from nitrokit.cli.ledger_verify import verify_whole

    opened = open_ledger(folder, table, region, key, kms_key)
    report = verify_whole(opened, checkpoint or [])
    if save is not None:
        report.save(save)
    result(report.as_dict(), as_json=as_json, human=lambda: print("\n".join(report.lines())))


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Where the export goes; one that is there is continued.")],
    table: Annotated[str, typer.Option("--table", help="The DynamoDB table of the live ledger.")],
    region: Region = None,
    key: Key = None,
    kms_key: KmsKey = None,
    as_json: JsonOption = False,
) -> None:
    """Write the ledger up to its last checkpoint into a folder. `nitrokit ledger verify FOLDER` verifies it anywhere."""
    from nitrokit.cli.ledger_source import live_ledger, public_key
    from nitrokit.handlers.ledger_export import export_ledger
    from nitrokit.handlers.ledger_folder import FolderStore

    trusted = public_key(key, kms_key, region)
    if trusted is None:
        raise UsageError(
            "no-key", "the ledger's public key must be named", expected="--key FILE or --kms-key ARN", do="name the key that signs it"
        )
    talk(f"exporting {table} to {folder}")
    checkpoint = export_ledger(live_ledger(table, region), FolderStore(folder), trusted)
    value = {
        "folder": str(folder),
        "entries": checkpoint.size,
        "root": checkpoint.root.hex(),
        "time": checkpoint.time.isoformat(),
        "origin": checkpoint.origin,
    }
    result(
        value,
        as_json=as_json,
        human=lambda: print(f"{checkpoint.size} entries in {folder}, as signed {checkpoint.time:%Y-%m-%d %H:%M:%S} UTC"),
    )
