"""What the reference deployment (app.py) is told by context; docs/deploy.md lists it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from nitrokit.core.attestation import AWS_NITRO_ROOT_G1, TrustAnchor
from nitrokit.errors import UsageError

FORMS = ("dev", "production")
_NAMES = ("form", "image", "dataOwner", "alarmEmail", "minCapacity", "lambdaRuntime", "trustAnchor")


@dataclass(frozen=True)
class AppSettings:
    """``image``: a folder; ``data_owners``: ARNs; ``alarm_email``: None: nobody; ``min_capacity``: of the fleet in the production form."""

    production: bool
    image: str
    data_owners: tuple[str, ...]
    alarm_email: str | None
    min_capacity: int
    runtime: lambda_.Runtime
    trust_anchor: TrustAnchor


def read_settings(scope: Construct) -> AppSettings:
    """From the context values ``nitrokit:…``. Raises UsageError for a value that cannot be, and for a name that is not one."""
    given = {
        name.removeprefix("nitrokit:"): value
        for name, value in (scope.node.get_all_context() or {}).items()
        if name.startswith("nitrokit:")
    }
    if unknown := sorted(set(given) - set(_NAMES)):
        raise UsageError("context", "unknown context", got=f"nitrokit:{unknown[0]}", expected=", ".join(_NAMES), do="see docs/deploy.md")
    form, capacity = given.get("form", FORMS[0]), str(given.get("minCapacity", 2))
    if form not in FORMS:
        raise UsageError(
            "form", "there is no such form of the deployment", got=form, expected=" or ".join(FORMS), do="correct nitrokit:form"
        )
    if not capacity.isascii() or not capacity.isdigit() or int(capacity) < 1:
        raise UsageError(
            "capacity", "a fleet has at least one instance", got=capacity, expected="1 or more", do="correct nitrokit:minCapacity"
        )
    return AppSettings(
        production=form == "production",
        image=given.get("image") or "enclave_images/hello",
        data_owners=(given["dataOwner"],) if given.get("dataOwner") else (),
        alarm_email=given.get("alarmEmail"),
        min_capacity=int(capacity),
        runtime=lambda_runtime(scope),
        trust_anchor=_trust_anchor(given.get("trustAnchor")),
    )


def lambda_runtime(scope: Construct) -> lambda_.Runtime:
    """The Lambdas' runtime, where a construct takes none."""
    name = scope.node.try_get_context("nitrokit:lambdaRuntime") or "python3.13"
    return lambda_.Runtime(name, lambda_.RuntimeFamily.PYTHON, supports_inline_code=True)


def _trust_anchor(path: str | None) -> TrustAnchor:
    try:
        return TrustAnchor(Path(path).name, Path(path).read_bytes()) if path else AWS_NITRO_ROOT_G1
    except OSError as error:
        raise UsageError(
            "trust-anchor", "cannot read the trust anchor", got=str(error), do="correct the context nitrokit:trustAnchor"
        ) from error
