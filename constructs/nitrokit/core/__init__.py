"""The formats and rules that everyone trusts. Pure: bytes in, values out; no clock, no files, no network, no environment.

Enclaves and Lambdas ship this package: keep its dependencies to cbor2 and cryptography.
"""
