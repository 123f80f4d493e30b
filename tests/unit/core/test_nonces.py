"""One base, a nonce for each enclave."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from nitrokit.core.nonces import enclave_nonce

part = st.tuples(st.binary(max_size=70), st.text(max_size=20), st.text(max_size=20))


@given(part, part)
def test_another_base_instance_or_enclave_is_another_nonce(one, other):
    assert (enclave_nonce(*one) == enclave_nonce(*other)) == (one == other)


def test_the_definition_written_out():
    parts = [b"nitrokit enclave nonce 1", b"b" * 32, b"i-0123456789abcdef0", b"hello"]
    text = b"".join(bytes([0, 0, 0, len(part)]) + part for part in parts)
    assert enclave_nonce(b"b" * 32, "i-0123456789abcdef0", "hello") == hashlib.sha256(text).digest()
