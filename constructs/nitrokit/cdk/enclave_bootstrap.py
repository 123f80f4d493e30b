"""EnclaveBootstrap: the SSM document that brings an enclave up on its host, and the association that runs it and fails the deployment when the enclave does not come up."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from aws_cdk import Duration, Stack
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.host.bundle import build_agent
from nitrokit.host.renderer import render_document

_FIRST_CID = 16


class EnclaveBootstrap(Construct):
    """Runs ``image`` on ``host``.

    - ``timeout``: how long the deployment waits for a healthy enclave; default 15 minutes.
    - ``cid``: the enclave's fixed vsock address, so that proxies on the host stay right over restarts; default 16.
    """

    def __init__(
        self, scope: Construct, id: str, *, host: EnclaveHost, image: EnclaveImage, timeout: Duration | None = None, cid: int = _FIRST_CID
    ) -> None:
        super().__init__(scope, id)
        if not 4 <= cid < 2**32 - 1:
            raise ValueError(f"cid {cid} is reserved; expected 4 to 4294967294")
        self.host, self.image, self.cid = host, image, cid
        agent = build_agent()
        path = Path(tempfile.mkdtemp(prefix="nitrokit-agent-")) / "agent.pyz"
        path.write_bytes(agent)
        self._agent = s3_assets.Asset(self, "Agent", path=str(path))
        image.asset.grant_read(host.role)
        self._agent.grant_read(host.role)
        self.document = ssm.CfnDocument(
            self,
            "Document",
            content=render_document("bootstrap.json.j2", name=image.name),
            document_type="Command",
            update_method="NewVersion",
        )
        association = ssm.CfnAssociation(
            self,
            "Association",
            name=self.document.ref,
            targets=[ssm.CfnAssociation.TargetProperty(key="InstanceIds", values=[host.instance_id])],
            parameters={
                "Config": [self._config()],
                "AgentUri": [self._agent.s3_object_url],
                "AgentSha256": [hashlib.sha256(agent).hexdigest()],
            },
            wait_for_success_timeout_seconds=(timeout or Duration.minutes(15)).to_seconds(),
        )
        # Roles, endpoints and routes first: the agent on the host needs them all.
        association.node.add_dependency(host)
        self.attest_document = ssm.CfnDocument(
            self,
            "AttestDocument",
            content=render_document("attest.json.j2", name=image.name),
            document_type="Command",
            update_method="NewVersion",
        )

    def _config(self) -> str:
        """The agent's configuration; the bucket's name is known at deployment only."""
        image = self.image
        return Stack.of(self).to_json_string({
            "name": image.name,
            "image_uri": image.asset.s3_object_url,
            "image_sha256": _sha256(image.eif),
            "measurements": {f"PCR{index}": value.hex() for index, value in image.measurements.pcrs().items()},
            "cpu_count": image.cpu_count,
            "memory_mib": image.memory_mib,
            "cid": self.cid,
            "proxies": [{"vsock_port": one.vsock_port, "host": one.host, "port": one.port} for one in image.egress],
        })  # fmt: skip


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
