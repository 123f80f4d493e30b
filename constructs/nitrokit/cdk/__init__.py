"""The constructs. Import them by name, e.g. ``from nitrokit.cdk.enclave_key import EnclaveKey``: this imports nothing."""
