"""Writes docs/errors.md from the source: every place that raises one of our errors names its code, its meaning and its remedy there. ``--check`` compares instead."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "constructs" / "nitrokit"
PAGE = Path(__file__).with_name("errors.md")
HEAD = """# Errors
Every error has a stable code `area/slug`, printed with what went wrong, what was got, what was expected and what to do.
A code is never reused. The class of the error decides the exit code: 1 the answer is no, 2 usage, 3 the environment.
A document whose CBOR or COSE is malformed is reported as `document/…` with the slug of the `cbor/…` or `cose/…` error. Written by `docs/generate_errors.py` from the source; `…` stands for a value.

| code | exit | meaning | what to do |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """One code."""

    code: str
    exit_code: int
    meaning: str
    remedy: str


def entries() -> list[Entry]:
    """All codes, sorted; of several places that raise one code, the first that names a remedy."""
    trees = [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    classes = _classes(trees)
    found: dict[str, Entry] = {}
    for tree in trees:
        for entry in _raised(tree, classes):
            if entry.code not in found or (not found[entry.code].remedy and entry.remedy):
                found[entry.code] = entry
    return [found[code] for code in sorted(found)]


def _classes(trees: list[ast.Module]) -> dict[str, tuple[str, int]]:
    """Error class → area and exit code, inherited."""
    bases: dict[str, list[str]] = {}
    own: dict[str, dict[str, object]] = {}
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
        own[node.name] = {}
        for item in node.body:
            if isinstance(item, (ast.Assign, ast.AnnAssign)) and isinstance(item.value, ast.Constant):
                target = item.targets[0] if isinstance(item, ast.Assign) else item.target
                if isinstance(target, ast.Name):
                    own[node.name][target.id] = item.value.value

    def inherited(name: str, attribute: str) -> object:
        if attribute in own.get(name, {}):
            return own[name][attribute]
        return next((value for base in bases.get(name, []) if (value := inherited(base, attribute)) is not None), None)

    return {
        name: (str(inherited(name, "area")), int(str(inherited(name, "exit_code"))))
        for name in own
        if inherited(name, "area") and inherited(name, "exit_code")
    }


def _raised(tree: ast.Module, classes: dict[str, tuple[str, int]]) -> Iterator[Entry]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        slug = node.args[0]
        if name in classes and isinstance(slug, ast.Constant) and isinstance(slug.value, str):
            area, exit_code = classes[name]
            remedy = next((keyword.value for keyword in node.keywords if keyword.arg == "do"), None)
            yield Entry(f"{area}/{slug.value}", exit_code, _text(node.args[1]), _text(remedy))
        elif name == "run" and len(node.args) == 3 and isinstance(node.args[2], ast.Constant):
            # The host agent's programs: their failure is named by the step.
            yield Entry(
                f"agent/{node.args[2].value}",
                1,
                f"{_text(node.args[1])} failed",
                "read what the program printed; nitro-cli's E-codes come with a remedy",
            )


def _text(node: ast.expr | None) -> str:
    """A message's text, values shown as …; empty where it is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def render() -> str:
    return HEAD + "".join(f"| `{one.code}` | {one.exit_code} | {one.meaning} | {one.remedy} |\n".replace("||", "| |") for one in entries())


def main() -> int:
    if "--check" in sys.argv:
        return 0 if PAGE.read_text() == render() else 1
    PAGE.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
