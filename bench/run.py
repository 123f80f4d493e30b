"""Times of what users wait for, each beside something it can be compared with in the same run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EMPTY_APP = "import aws_cdk as cdk; app = cdk.App(); cdk.Stack(app, 'Empty'); app.synth()\n"
# What the CDK itself takes for the template of app.py: none of its constructs, and none of ours.
TEMPLATE_APP = """import aws_cdk as cdk
from aws_cdk.cloudformation_include import CfnInclude
app = cdk.App(analytics_reporting=False)
stack = cdk.Stack(app, 'Same', synthesizer=cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=False))
CfnInclude(stack, 'Template', template_file={template!r})
app.synth()
"""
QUICK = "from nitrokit.cdk.quick import quick_synthesis; quick_synthesis()\n"
FURTHER = 8
PATH = os.pathsep.join([str(ROOT / ".venv/bin"), str(ROOT / "node_modules/.bin"), os.environ["PATH"]])
# As users have it: Python keeps the bytecode of what it imports.
ENVIRONMENT = {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, "PATH": PATH}


def seconds(command: list[str], *, runs: int = 1, environment: dict[str, str] | None = None) -> float:
    """Best of ``runs``, in seconds. A failing command ends the benchmark with what it printed."""
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **(environment or {})}, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        best = min(best, time.perf_counter() - started)
    return best


def synth(app: str, output: str) -> list[str]:
    return ["cdk", "synth", "--quiet", "--no-notices", "--app", app, "--output", output]


def measure(*, cold: bool) -> dict[str, float]:
    """All measurements, in seconds."""
    python = str(ROOT / ".venv/bin/python")
    demo = ["nitrokit", "local", "demo", "--json"]
    times = {"empty Python process": seconds([python, "-c", ""], runs=5), "nitrokit --help": seconds(["nitrokit", "--help"], runs=5)}
    with tempfile.TemporaryDirectory() as folder:
        empty, quick, included = (Path(folder) / f"{name}.py" for name in ("empty", "quick", "included"))
        empty.write_text(EMPTY_APP)
        quick.write_text(QUICK + EMPTY_APP)
        seconds(synth(f"{python} app.py", f"{folder}/app"))
        included.write_text(TEMPLATE_APP.format(template=f"{folder}/app/NitrokitHello.template.json"))
        files = {
            "an empty app": str(empty),
            "an empty app, quick_synthesis": str(quick),
            "app.py's template alone": str(included),
            "app.py (image cached)": "app.py",
        }
        apps = {f"synth of {name}": f"{python} {path}" for name, path in files.items()}
        # In turns, the first of which only warms up: what else the machine does hits both.
        rounds = []
        for number in range(4):
            rounds.append({name: seconds(synth(app, f"{folder}/{len(name)}")) for name, app in apps.items()})
            rounds[-1] |= {f"{name}, new folder": seconds(synth(app, f"{folder}/{len(name)}-{number}")) for name, app in apps.items()}
        times |= {name: min(one[name] for one in rounds[1:]) for name in rounds[0]}
        few, many = (seconds(synth(f"{python} bench/enclaves_app.py {count}", f"{folder}/{count}"), runs=2) for count in (1, 1 + FURTHER))
        times["synth of one enclave"], times["synth of a further enclave"] = few, (many - few) / FURTHER
        if cold:
            times["demo, cold"] = seconds(demo, environment={"NITROKIT_CACHE": f"{folder}/cache"})
    times["demo, warm"] = seconds(demo)
    return times


def ratios(times: dict[str, float]) -> dict[str, float]:
    pairs = [
        ("nitrokit --help", "empty Python process"),
        ("synth of app.py (image cached)", "synth of an empty app"),
        ("synth of an empty app, quick_synthesis", "synth of an empty app"),
        ("synth of app.py's template alone", "synth of an empty app"),
        ("synth of app.py (image cached), new folder", "synth of an empty app, new folder"),
        ("synth of a further enclave", "synth of an empty app"),
        ("demo, cold", "demo, warm"),
    ]
    return {f"{one} / {other}": times[one] / times[other] for one, other in pairs if one in times and other in times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", action="store_true", help="also the demo with an empty cache")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times = measure(cold=options.cold)
    if options.json:
        print(json.dumps({"seconds": times, "ratios": ratios(times)}, indent=2))
        return
    for name, value in times.items():
        print(f"{value:8.2f} s  {name}")
    for name, value in ratios(times).items():
        print(f"{value:8.2f} ×  {name}")


if __name__ == "__main__":
    main()
