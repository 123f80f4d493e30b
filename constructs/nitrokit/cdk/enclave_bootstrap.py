"""EnclaveBootstrap: the SSM document that brings an enclave up on its host, and the association that runs it and fails the deployment when the enclave does not come up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.parent import EnclaveParent
from nitrokit.host.bundle import build_agent
from nitrokit.host.renderer import render_document
from nitrokit.image.fetch import cache_dir
from nitrokit.image.files import write_atomically

_WAIT = range(15, 172_801)  # seconds (CloudFormation AWS::SSM::Association WaitForSuccessTimeoutSeconds)


class EnclaveBootstrap(Construct):
    """Runs ``image`` on ``parent``: a host or a fleet. Several bootstraps share one parent: up to four.

    - ``timeout``: how long the deployment waits for a healthy enclave, 15 s to 48 h; default 15 minutes.
    - ``cid``: the enclave's fixed vsock address, so that proxies on the host stay right over restarts; default the parent's next free one, from 16 on.
    - The parent's role may read the agent's and the image's objects, and nothing else of the bucket.

    Raises ValueError for a ``timeout`` out of range, a fifth enclave, and a name, ``cid`` or vsock port that is taken on this parent.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        parent: EnclaveParent,
        image: EnclaveImage,
        timeout: Duration | None = None,
        cid: int | None = None,
    ) -> None:
        super().__init__(scope, id)
        wait = (timeout or Duration.minutes(15)).to_seconds()
        if wait not in _WAIT:
            raise ValueError(f"timeout {wait} s is out of range; expected {_WAIT.start} to {_WAIT.stop - 1} s")
        self.parent, self.image = parent, image
        self.slot = parent.enclaves.claim(image.name, cpu_count=image.cpu_count, memory_mib=image.memory_mib, egress=image.egress, cid=cid)
        agent = build_agent()
        self._agent = s3_assets.Asset(self, "Agent", path=str(_kept(agent)))
        objects = self._agent.bucket.arn_for_objects(self._agent.s3_object_key)
        parent.role.add_to_principal_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[objects]))
        image.grant_read(parent.role)
        self.document = self._make_document("Document", "bootstrap.json.j2")
        self.association = ssm.CfnAssociation(
            self,
            "Association",
            name=self.document.ref,
            targets=parent.association_targets,
            parameters={
                "Config": [self._config()],
                "AgentUri": [self._agent.s3_object_url],
                "AgentSha256": [hashlib.sha256(agent).hexdigest()],
            },
            wait_for_success_timeout_seconds=wait,
        )
        # Roles, endpoints and routes first: the agent on the host needs them all.
        self.association.node.add_dependency(parent)
        self.attest_document = self._make_document("AttestDocument", "attest.json.j2")
        self.status_document = self._make_document("StatusDocument", "status.json.j2")

    def _make_document(self, id: str, template: str) -> ssm.CfnDocument:
        content = render_document(template, name=self.image.name)
        return ssm.CfnDocument(
            self, id, content=content, document_type="Command", update_method="NewVersion", target_type="/AWS::EC2::Instance"
        )

    def _config(self) -> str:
        """The agent's configuration; the bucket's name is known at deployment only."""
        image = self.image
        value: dict[str, Any] = {
            "name": image.name,
            **image.host_config(),
            "measurements": {f"PCR{index}": value.hex() for index, value in image.measurements.pcrs().items()},
            "cpu_count": image.cpu_count,
            "memory_mib": image.memory_mib,
            "cid": self.slot.cid,
            "proxies": [{"vsock_port": one.vsock_port, "host": one.host, "port": one.port} for one in image.egress],
        }
        return Stack.of(self).to_json_string(value)


def _kept(agent: bytes) -> Path:
    """The agent as a file, for the asset: one for each content, not one for each synthesis."""
    path = cache_dir(os.environ) / "agent" / f"{hashlib.sha256(agent).hexdigest()[:32]}.pyz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [agent])
    return path
