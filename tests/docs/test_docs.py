"""Documentation is tested: every error code, command and environment variable must occur in it."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from nitrokit.cli.__main__ import app

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "constructs" / "nitrokit"
DOCS = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def _areas(trees):
    """Class name → area, with inheritance, over the whole package."""
    bases, areas = {}, {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                for item in node.body:
                    if isinstance(item, (ast.Assign, ast.AnnAssign)) and isinstance(item.value, ast.Constant):
                        target = item.targets[0] if isinstance(item, ast.Assign) else item.target
                        if isinstance(target, ast.Name) and target.id == "area":
                            areas[node.name] = item.value.value

    def area(name):
        return areas.get(name) or next((found for base in bases.get(name, []) if (found := area(base))), None)

    return {name: area(name) for name in bases if area(name)}


def _raised_codes():
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    areas = _areas(trees)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in areas and node.args:
                if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    yield f"{areas[node.func.id]}/{node.args[0].value}", f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_error_code_is_documented_and_every_documented_one_exists():
    documented = set(re.findall(r"^\| `([a-z0-9-]+/[a-z0-9-]+)` ", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    raised: dict[str, str] = {}
    for code, place in _raised_codes():
        raised.setdefault(code, place)
    assert len(raised) > 50
    assert {code: place for code, place in raised.items() if code not in documented} == {}
    assert documented - set(raised) == set()


def _commands(command, prefix="nitrokit"):
    for name, child in getattr(command, "commands", {}).items():
        yield f"{prefix} {name}", child
        yield from _commands(child, f"{prefix} {name}")


@pytest.mark.parametrize("name", [name for name, _ in _commands(get_command(app))])
def test_every_command_is_documented(name):
    assert f"`{name}" in DOCS


@pytest.mark.parametrize("name,command", [pair for pair in _commands(get_command(app)) if not hasattr(pair[1], "commands")])
def test_every_command_speaks_json(name, command):
    assert any("--json" in parameter.opts for parameter in command.params), name


def test_every_environment_variable_is_documented():
    used = {name for path in PACKAGE.rglob("*.py") for name in re.findall(r"\bNITROKIT_[A-Z_]+\b", path.read_text())}
    assert {name for name in used if name not in DOCS} == set()


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


FOREIGN = re.compile(
    "|".join(["/work" + "/", "/root" + "/", "deb" + r"\.debian\.org", "files\\.python" + "hosted", "registry\\.npm" + "js"])
)


def test_the_project_speaks_of_itself_alone():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    texts = [ROOT / name for name in listed if name.endswith((".py", ".md", ".toml", ".json", ".txt", ".j2", "Makefile", "run"))]
    found = {
        str(path.relative_to(ROOT)) for path in texts if path.exists() and "vectors" not in path.parts and FOREIGN.search(path.read_text())
    }
    assert found == set()
