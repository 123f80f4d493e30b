"""The demo's summary for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nitrokit.emulation.demo.report import Report


def print_report(report: Report) -> None:
    """Print what was built, its PCRs, what each actor was allowed, and the verdict."""
    console = Console(highlight=False)
    console.print()
    if report.image:
        console.print(
            f"[bold]Image[/bold] {report.image['name']}, {report.image['size']:,} bytes; {escape(report.image['kernel'])}", soft_wrap=True
        )
        for name, value in report.image["pcrs"].items():
            changed = report.image["tampered_pcrs"].get(name)
            console.print(f"  {name} {value}", soft_wrap=True)
            if changed != value:
                console.print(f"  [dim]{' ' * len(name)} {changed}  with one byte of the app changed[/dim]", soft_wrap=True)
    console.print(f"[bold]Runner[/bold] {escape(report.runner)}", soft_wrap=True)
    console.print(_table(report))
    total = report.seconds.get("total", 0.0)
    if report.ok:
        console.print(f"[bold green]Every expectation held.[/bold green] {len(report.expectations)} checks in {total:.0f} s.")
    else:
        console.print(f"[bold red]Not every expectation held.[/bold red] {total:.0f} s.")


def _table(report: Report) -> Table:
    """What each actor was allowed; a detail only where something did not hold (``--json`` has them all)."""
    table = Table(title="Who did what, and what came of it", title_justify="left", expand=False)
    for heading in ("", "actor", "does", "outcome"):
        table.add_column(heading, overflow="fold")
    for one in report.expectations:
        mark = "[green]✓[/green]" if one.held else "[red]✗[/red]"
        outcome = (
            escape(one.got)
            if one.held
            else f"[red]{escape(one.got)}[/red], expected {escape(one.expected)} [dim]{escape(one.detail)}[/dim]"
        )
        table.add_row(mark, escape(one.actor), escape(one.what), outcome)
    return table
