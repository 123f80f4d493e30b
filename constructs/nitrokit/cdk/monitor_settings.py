"""What the monitor's functions are told of fleets and locks: Systems Manager parameters, as nitrokit.handlers.settings reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from aws_cdk import Names, Stack
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.monitor_function import MonitorFunction
from nitrokit.core.reference_values import ReferenceValues


class MonitorSettings(Construct):
    """One parameter for each fleet, below ``path``. ``version``: another one for other locks, so that a function that keeps what it read starts anew.

    Raises ValueError for two fleets of one name.
    """

    def __init__(self, scope: Construct, id: str, *, bootstraps: Sequence[EnclaveBootstrap]) -> None:
        super().__init__(scope, id)
        self.path = f"/nitrokit/{Names.unique_resource_name(self, max_length=64, separator='-')}"
        digest = hashlib.sha256()
        names = [bootstrap.image.name for bootstrap in bootstraps]
        if len(set(names)) != len(names):
            raise ValueError(f"two fleets have one name: {', '.join(names)}; expected an image of its own for each, or a monitor for each")
        for bootstrap in bootstraps:
            digest.update(reference_values(bootstrap).to_json().encode())
            self._put("Fleet", "fleets", bootstrap.image.name, _fleet(bootstrap))
        self.version = digest.hexdigest()[:16]

    def _put(self, id: str, kind: str, name: str, value: Any) -> None:
        # Intelligent: the standard tier ends at 4 KB.
        ssm.StringParameter(
            self,
            f"{id}{name}",
            parameter_name=f"{self.path}/{kind}/{name}",
            string_value=Stack.of(self).to_json_string(value),
            tier=ssm.ParameterTier.INTELLIGENT_TIERING,
        )

    def allow_reading(self, function: MonitorFunction) -> None:
        """Let a function read them: the path is what GetParametersByPath is allowed on (Systems Manager User Guide "Restricting access to parameters")."""
        function.allow_all_below(
            "ssm:GetParametersByPath",
            service="ssm",
            resource="parameter",
            name=self.path[1:],
            reason="the parameters below the monitor's own path",
        )


def reference_values(bootstrap: EnclaveBootstrap) -> ReferenceValues:
    """What the lock of a fleet's image accepts."""
    return bootstrap.image.reference_values


def _fleet(bootstrap: EnclaveBootstrap) -> dict[str, Any]:
    targets = [{"key": one.key, "values": list(one.values)} for one in bootstrap.parent.association_targets]
    return {
        "name": bootstrap.image.name,
        "document": bootstrap.attest_document.ref,
        "host_role_arn": bootstrap.parent.role.role_arn,
        "targets": targets,
        "reference": json.loads(reference_values(bootstrap).to_json()),
    }
