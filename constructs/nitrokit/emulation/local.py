"""The local AWS put together: the cloud (moto and helpers), emulated Nitro hardware under its instances, and the trust of both, made anew at each start."""

from __future__ import annotations

import json
import resource
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nitrokit.emulation.cloud.lambdas import LOCAL_RUNTIME
from nitrokit.emulation.cloud.server import LocalCloud
from nitrokit.emulation.interfaces import InstanceDescription
from nitrokit.emulation.nitro.hypervisor import Hypervisor
from nitrokit.emulation.nitro.instance import EmulatedInstance
from nitrokit.emulation.nitro.pki import EmulatedPki
from nitrokit.emulation.nitro.runners import choose_runner

_FILES = 1 << 16
"""Each parent takes some ten; a shell's usual limit of 1,024 ends a fleet at about a hundred."""


class LocalAws:
    """Started when made, stopped by ``close``. ``runner``: auto, qemu or process. Raises EmulationError."""

    account, region = "123456789012", "us-east-1"
    lambda_runtime = LOCAL_RUNTIME

    def __init__(self, work: Path, *, environment: Mapping[str, str], runner: str, note: Callable[[str], None]) -> None:
        warnings.filterwarnings("ignore", module="moto")
        _allow_files()
        self._work = work
        self._runner = choose_runner(environment, runner)
        self._pki = EmulatedPki(_now, self.region)
        self.instances: list[EmulatedInstance] = []
        self._cloud = LocalCloud(
            work,
            region=self.region,
            account=self.account,
            trust_anchor=self._pki.trust_anchor,
            instance_factory=self._instance,
            now=_now,
            note=note,
        )

    @property
    def runner_sentence(self) -> str:
        return self._runner.sentence

    @property
    def root_der(self) -> bytes:
        """The emulated Nitro root, for those who verify locally."""
        return self._pki.trust_anchor.der

    @property
    def bootstrap_bucket(self) -> str:
        """Where `cdk bootstrap` put the assets."""
        return f"cdk-hnb659fds-assets-{self.account}-{self.region}"

    @property
    def routes(self) -> dict[str, tuple[str, int]]:
        """``host:port`` → loopback address, where AWS's DNS would lead."""
        return self._cloud.routes

    def environment(self, role_arn: str | None = None) -> dict[str, str]:
        """For AWS clients and the CDK: with the operator's credentials, or a role's."""
        return self._cloud.environment(self._cloud.identities.for_role(role_arn, "local") if role_arn else None)

    def client(self, service: str, role_arn: str | None = None) -> Any:
        """A boto3 client with the operator's credentials, or a role's."""
        keys = self._cloud.identities.for_role(role_arn, "demo") if role_arn else None
        return self._cloud.client(service, keys)

    def create_role(self, name: str) -> str:
        """A role of somebody outside the stack; returns its ARN."""
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{self.account}:root"}, "Action": "sts:AssumeRole"}],
        }
        return str(self.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"])

    def kms_decisions(self) -> list[dict[str, Any]]:
        return [vars(event) for event in self._cloud.kms_events]

    def diagnosis(self) -> str:
        """Consoles and Lambda logs, for when something went wrong."""
        return "\n".join([*(instance.hypervisor.consoles() for instance in self.instances), self._cloud.lambdas.logs()])

    def hypervisor(self, folder: Path, role_arn: str) -> Hypervisor:
        """Hardware of a parent that belongs to no stack; whoever asks closes it."""
        return Hypervisor(
            folder, instance_id="i-0123456789abcdef0", role_arn=role_arn, pki=self._pki, tls_authorities=self._cloud.tls.pem,
            runner=self._runner, now=_now,
        )  # fmt: skip

    def _instance(self, description: InstanceDescription) -> EmulatedInstance:
        # A short name: unix socket paths have 108 bytes at most.
        folder = self._work / f"i{len(self.instances)}"
        instance = EmulatedInstance(description, folder, pki=self._pki, tls_authorities=self._cloud.tls.pem, runner=self._runner, now=_now)
        self.instances.append(instance)
        return instance

    def close(self) -> None:
        self._cloud.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
