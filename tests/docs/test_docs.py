"""Documentation is tested: every error code, command and environment variable must occur in it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer import Context
from typer.main import get_command

from nitrokit.cli.commands import app, execute

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "constructs" / "nitrokit"
DOCS = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def test_the_page_of_errors_is_what_the_source_says():
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate_errors.py", "--check"], check=False)
    assert done.returncode == 0, "run docs/generate_errors.py"
    codes = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert len(codes) > 100
    assert all(re.fullmatch(r"[a-z]+/[a-z0-9-]+", code) for code in codes), codes


def test_pcr1_of_a_stock_image_is_the_locks():
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate_pcr1.py", "--check"], check=False)
    assert done.returncode == 0, "run docs/generate_pcr1.py"
    recipe = json.loads((ROOT / "enclave_images/kernel/recipe.json").read_text())
    assert recipe["bzimage"]["sha256"] in (ROOT / "docs/pcr1.md").read_text(), "the hello image is locked with the recipe's kernel"


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


def test_the_lists_of_commands_break_off_in_no_sentence():
    app_of = {"nitrokit": get_command(app), **{name: one for name, one in _commands(get_command(app)) if hasattr(one, "commands")}}
    for name, group in app_of.items():
        shown = group.get_help(Context(group, info_name=name, terminal_width=78))
        assert "..." not in shown.partition("Commands:")[2], shown


def test_every_environment_variable_is_documented():
    used = {name for path in PACKAGE.rglob("*.py") for name in re.findall(r"\bNITROKIT_[A-Z_]+\b", path.read_text())}
    assert {name for name in used if name not in DOCS} == set()


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme():
    todo, reached = [ROOT / "README.md"], set()
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            todo += [(page.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+)", page.read_text())]
    assert {page.name for page in (ROOT / "docs").glob("*.md") if page not in reached} == set()


def test_every_option_is_documented():
    page = (ROOT / "docs" / "cli.md").read_text()
    leaves = [(name, command) for name, command in _commands(get_command(app)) if not hasattr(command, "commands")]
    options = {f"{name} {option}" for name, command in leaves for one in command.params for option in one.opts if option.startswith("--")}
    assert {one for one in options if not one.endswith((" --json", " --help")) and one.rpartition(" ")[2] not in page} == set()


def test_the_readmes_app_synthesises(tmp_path):
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=ROOT,
        env={**os.environ, "CDK_OUTDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "nitrokit/" in done.stdout + done.stderr) == (0, False), (done.stdout + done.stderr)[-3000:]  # no finding
    template = json.loads((tmp_path / "Hello.template.json").read_text())
    assert {"AWS::EC2::Instance", "AWS::KMS::Key", "AWS::SSM::Association"} <= {one["Type"] for one in template["Resources"].values()}


def _named_in_json():
    rows = re.findall(
        r"^\| `nitrokit ([a-z -]+)` \| (.*) \|$", (ROOT / "docs" / "cli.md").read_text().partition("## JSON")[2], re.MULTILINE
    )
    return {command: re.findall(r"`([a-z0-9_]+)`", names.partition(";")[0]) for command, names in rows}


def test_json_has_the_names_that_its_page_says(tmp_path, small_eif, capsys):
    (tmp_path / "x.eif").write_bytes(small_eif)
    (tmp_path / "enclave.toml").write_text('[enclave]\nname = "x"\n[eif]\npath = "x.eif"\n')
    named, image = _named_in_json(), str(tmp_path)
    assert set(named) == {name.removeprefix("nitrokit ") for name, one in _commands(get_command(app)) if not hasattr(one, "commands")} - {
        "measure"
    }
    for words in (["build", image, "-o", f"{image}/y.eif"], ["lock", image], ["explain", f"{image}/x.eif", f"{image}/y.eif"]):
        assert execute([*words, "--json"]) == 0
        assert list(json.loads(capsys.readouterr().out)) == named[words[0]]
    execute(["doctor", image, "--json"])
    assert all(list(one) == named["doctor"] for one in json.loads(capsys.readouterr().out))


FOREIGN = re.compile(
    "|".join(["/work" + "/", "/root" + "/", "deb" + r"\.debian\.org", "files\\.python" + "hosted", "registry\\.npm" + "js"])
)


def test_the_project_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    texts = [ROOT / name for name in listed if name.endswith((".py", ".md", ".toml", ".json", ".txt", ".j2", "Makefile", "run"))]
    found = {
        str(path.relative_to(ROOT)) for path in texts if path.exists() and "vectors" not in path.parts and FOREIGN.search(path.read_text())
    }
    assert found == set()


def test_every_key_of_enclave_toml_is_documented():
    from nitrokit.core.manifest.parse import KEYS

    page = (ROOT / "docs" / "enclave_toml.md").read_text()
    assert {key for table in KEYS.values() for key in table if f"`{key}`" not in page} == set()


def test_no_merge_is_left_half_done():
    marked = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [
        str(path)
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.*")]
        if path.is_file() and marked.search(path.read_text(errors="replace"))
    ] == []
