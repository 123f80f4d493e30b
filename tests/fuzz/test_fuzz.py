"""Every parser under atheris for a fixed number of derandomised cases; under plain mutations where atheris is not installed; and its cost, which grows with the input and not faster."""

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUNS = {
    "verify": 10_000,
    "eif_signature": 10_000,
    "key_policy": 3000,
    "cms": 20_000,
    "layer": 5000,
    "oci": 1000,
    "oci_json": 1500,
    "deb": 2500,
    "wheel": 2500,
    "scripts": 10_000,
    "control": 20_000,
    "boot": 20_000,
    "agent_config": 10_000,
    "agent_log": 10_000,
    "gate_host": 10_000,
    "gate_template": 10_000,
    "gate_policy": 500,
    "gate_page": 200,
    "ledger_record": 20_000,
    "ledger_checkpoint": 20_000,
    "ledger_key": 10_000,
    "ledger_bundle": 20_000,
}
DEFAULT_RUNS = 50_000


def _targets():
    specification = importlib.util.spec_from_file_location("nitrokit_fuzz_targets", HERE / "targets.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


targets = _targets()


@pytest.mark.parametrize("target", targets.TARGETS)
def test_valid_inputs_are_accepted(target):
    """Else the fuzzer would start from nothing."""
    accepted = 0
    for data in targets.corpus(target):
        try:
            targets.TARGETS[target](data)
            accepted += 1
        except targets.NitrokitError:
            pass
    assert accepted


@pytest.mark.parametrize("target", targets.TARGETS)
def test_nothing_but_our_errors_escapes_from_mutations(target):
    dice, corpus = random.Random(0), targets.corpus(target)
    for _ in range(300):
        data = bytearray(dice.choice(corpus))
        for _ in range(dice.randint(1, 4)):
            _mutate(data, dice)
        targets.check(target, bytes(data))


def _mutate(data, dice):
    at = dice.randrange(len(data) + 1)
    match dice.randrange(4):
        case 0 if data:
            data[at % len(data)] = dice.randrange(256)
        case 1:
            data[at:at] = dice.randbytes(dice.randint(1, 8))
        case 2:
            del data[at : at + dice.randint(1, 16)]
        case _:
            data[at:at] = data[dice.randrange(len(data) + 1) :][:64]


@pytest.mark.parametrize("target", targets.TARGETS)
def test_nothing_but_our_errors_escapes_from_atheris(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed: it has no wheel for this Python or machine")
    runs = RUNS.get(target, DEFAULT_RUNS)
    command = [
        # A program that the shell forks: one that we start ourselves has our own peak of memory for its own (getrusage(2), execve), and that counts against its limit.
        "sh",
        "-c",
        '"$@"; exit $?',
        "sh",
        sys.executable,
        HERE / "fuzz.py",
        target,
        tmp_path / "corpus",
        f"-runs={runs}",
        "-seed=1",
        "-max_len=12000",
        "-timeout=20",
        "-rss_limit_mb=1024",
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"], capture_output=True, text=True, check=False, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
    assert f"Done {runs} runs" in done.stderr


def _lines(function, data):
    """How many lines of nitrokit run: a measure of cost without a clock."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if "nitrokit" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function(data)
    except targets.NitrokitError:
        pass
    finally:
        sys.settrace(None)
    return count


EIF = targets.corpus("eif")[0]
GROWING = {
    "cbor": [lambda n: b"\x9f" + b"\x00" * n + b"\xff", lambda n: b"\x9b" + n.to_bytes(8, "big") + b"\x00" * n, lambda n: b"\x5f" + b"\x41\x00" * n + b"\xff", lambda n: b"\x81" * n],
    "document": [lambda n: b"\x84\x44\xa1\x01\x38\x22\xa0\x59" + (4 * n).to_bytes(2, "big") + b"\xbf" + b"\x61\x61\x00\x00" * n + b"\xff"],
    "cms": [lambda n: b"\x30\x80" * n, lambda n: b"\x30\x80" + b"\x04\x00" * n + b"\0\0", lambda n: b"\x04\x82" + n.to_bytes(2, "big") + bytes(n)],
    "nsm_request": [lambda n: b"\xbf" + b"\x61\x61\x00" * n + b"\xff"],
    "measurements": [lambda n: b"\n" * n, lambda n: b" " * n + b"{", lambda n: b"{" * n, lambda n: b'{"a":' + b"[" * n],
    "manifest": [lambda n: b"a = 1\n" * n, lambda n: b"[enclave]\n" + b"x" * n + b" = 1", lambda n: b"\n" * n],
    "key_policy": [
        lambda n: b'{"Statement": [' + b"[" * n,
        lambda n: b'{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Resource": "*", "Action": "kms:' + b"*a" * n + b'"}}'],
    "ledger_checkpoint": [lambda n: b"o\n" * n + b"\n\n" * n, lambda n: b"o\n\n" + "— o AAAAAAAA\n".encode() * n],
    "ledger_bundle": [lambda n: b"\xff" + b"\0\0" * n],
    "eif": [lambda n: EIF + bytes(n), lambda n: EIF[:600] + bytes(n)],
}  # fmt: skip


@pytest.mark.parametrize(("target", "number"), [(target, number) for target, makers in GROWING.items() for number in range(len(makers))])
def test_cost_grows_no_faster_than_the_input(target, number):
    make = GROWING[target][number]
    small, large = (_lines(targets.TARGETS[target], make(size)) for size in (400, 1600))
    assert large <= 4.5 * small + 200, (small, large)
