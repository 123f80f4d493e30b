"""What strangers use: every construct is offered, and every prop and argument told with what happens where it is left out."""

import importlib
import inspect
import pkgutil
import re

import pytest
from constructs import Construct

import nitrokit.cdk

PARTS = {
    "AttestedKey": "what an EnclaveKey is to the CDK",
    "ImportedEnclaveKey": "EnclaveKey.from_key_arn",
    "ImportedFleet": "EnclaveFleet.from_tag",
    "ImportedHost": "EnclaveHost.from_instance_attributes",
    "ImportedKey": "what EnclaveKey.from_key_arn is made of",
    "ImportedVerifier": "AttestationVerifier.from_function_arn",
    "KeyMonitor": "AttestationMonitor",
    "MonitorFunction": "all with a Lambda",
    "MonitorSettings": "AttestationMonitor, FleetAdmission",
}
"""Constructs that nobody makes by hand, and what makes them."""
SCOPE = {"self", "cls", "scope", "id"}


def _constructs():
    for module in pkgutil.iter_modules(nitrokit.cdk.__path__, "nitrokit.cdk."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and issubclass(value, Construct) and value.__module__ == module.name and not name.startswith("_"):
                yield name, value


def test_every_construct_is_offered_or_a_part(published):
    assert dict(_constructs()) == {**published, **{name: one for name, one in _constructs() if name in PARTS}}
    assert not set(PARTS) & set(published)


def _named(function):
    return [one for one in inspect.signature(function).parameters if one not in SCOPE]


def test_every_prop_is_told(published):
    untold = [
        f"{name}({one})"
        for name, construct in published.items()
        for one in _named(construct.__init__)
        if f"``{one}``" not in construct.__doc__
    ]
    assert untold == []


def test_every_optional_prop_tells_its_default(published):
    """By "default", or by what happens where it is None."""
    untold = []
    for name, construct in published.items():
        items = re.split(r"\n\s+- ", construct.__doc__)
        for prop in inspect.signature(construct.__init__).parameters.values():
            told = " ".join(one.lower() for one in items if f"``{prop.name}``" in one)
            is_optional = prop.default is not inspect.Parameter.empty and prop.name not in SCOPE
            if is_optional and not any(word in told for word in ("default", "none:", "as of ")):
                untold.append(f"{name}({prop.name})")
    assert untold == []


@pytest.mark.parametrize("prefix", ["from_", "grant_", "add_", "metric"])
def test_every_way_in_is_told(published, prefix):
    found = [
        (name, one, getattr(construct, one)) for name, construct in published.items() for one in dir(construct) if one.startswith(prefix)
    ]
    assert [f"{name}.{one}" for name, one, function in found if callable(function) and not inspect.getdoc(function)] == []
