"""/enclave.json: what is written is what is read, and nothing else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.boot import Boot, BootError, Process, decode, encode, is_emulated, require_real

text = st.text(max_size=20)
number = st.integers(0, 1 << 31)
processes = st.builds(
    Process, st.lists(text), text, number, number, st.lists(number), st.dictionaries(text, text), st.booleans(), text, st.none() | number
)
boots = st.builds(Boot, processes, st.lists(st.tuples(text, number, number)).map(tuple), st.lists(st.tuples(number, number)).map(tuple))


@given(boots)
def test_what_is_written_is_read(boot):
    assert decode(encode(boot)) == boot
    assert encode(decode(encode(boot))) == encode(boot)


@given(
    st.binary(max_size=100)
    | st.recursive(st.none() | text | number, lambda inner: st.dictionaries(text, inner)).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_our_error(data):
    with pytest.raises(BootError):
        decode(data)


@pytest.mark.parametrize(
    ("cmdline", "emulated"),
    [
        ("quiet nitrokit.emulated=1 panic=-1", True),
        ("nitrokit.emulated=1", True),
        ("quiet\tnitrokit.emulated=1\n", True),
        ("quiet nitrokit.emulated=0", False),
        ("quiet nitrokit.emulated=10 xnitrokit.emulated=1", False),
        ("", False),
    ],
)
def test_the_emulations_word_is_found_as_the_runtime_finds_it(cmdline, emulated):
    assert is_emulated(cmdline) is emulated
    if not emulated:
        require_real(cmdline)
        return
    with pytest.raises(BootError) as caught:
        require_real(cmdline)
    assert caught.value.code == "boot/emulation"
