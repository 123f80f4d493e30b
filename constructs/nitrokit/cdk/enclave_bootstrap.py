"""EnclaveBootstrap: the SSM documents that bring an enclave up on its parents and operate it, and the association that fails the deployment when the enclave does not come up."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jsii
from aws_cdk import CfnWaitCondition, CfnWaitConditionHandle, Duration, IAnyProducer, IResolveContext, Lazy, Names, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage, grant_object
from nitrokit.cdk.known import differ, is_token, need, need_one_environment, need_type, seconds
from nitrokit.cdk.parent import EnclaveParent, EnclaveSlots
from nitrokit.cdk.wildcards import BUCKET_WRITES, acknowledge_wildcards
from nitrokit.host.bundle import build_agent
from nitrokit.host.cloudwatch import HEALTHY, NAMESPACE, RESTARTS
from nitrokit.host.config import WORD
from nitrokit.host.renderer import render_document
from nitrokit.image.fetch import cache_dir
from nitrokit.image.files import write_atomically

_WAIT = range(15, 172_801)  # seconds (CloudFormation AWS::SSM::Association WaitForSuccessTimeoutSeconds)
_HEALTHY = range(1, 601)  # seconds, as the agent has it
_CONTROL_PORT = 5001
_LONGEST_CONDITION = 43_200  # seconds (CloudFormation AWS::CloudFormation::WaitCondition Timeout)


class EnclaveBootstrap(Construct):
    """Runs ``image`` on ``parent``: a host or a fleet, of this stack or of another one in its account and Region. Several bootstraps share one parent: up to four.

    - ``timeout``: how long the deployment waits for a healthy enclave, 15 s to 48 h (for a host at most 12); default 15 minutes.
      A host whose enclave does not come up fails it at once, with the cause in the event.
    - ``cid``: the enclave's fixed vsock address, so that proxies on the host stay right over restarts; default the parent's next free one, from 16 on.
    - ``healthy_within``: how long an app may take from its enclave's boot until it is ready, 1 s to 10 minutes; default two minutes. An update that takes longer goes back to the former image.
    - ``log_group``: for what the app prints (where enclave.toml lets the parent read it), what the agent did, and metrics; default one of its own, kept for a year.
    - ``output_bucket``: also gets what the documents print; default none.
    - ``diagnostics_bucket``: the runbook may put diagnostic archives there; default none: they stay on the parent.
    - The parent's role may read the agent's and the image's objects and nothing else of their bucket, write to the log group, and put its state into parameters below ``parameter``.

    ``document`` brings the enclave up; ``attest_document`` gives attestation documents, ``status_document`` the configuration; ``operate_document`` and ``runbook`` (Automation) are for
    day two: replace the image, drain, resume, rotate, diagnose. Raises ValueError for a value out of range, a parent of another account or Region, a fifth enclave, and a name, ``cid`` or
    vsock port that is taken on this parent.
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
        healthy_within: Duration | None = None,
        log_group: logs.ILogGroup | None = None,
        output_bucket: s3.IBucket | None = None,
        diagnostics_bucket: s3.IBucket | None = None,
    ) -> None:
        super().__init__(scope, id)
        wait = seconds("timeout", timeout or Duration.minutes(15), _WAIT)
        self._healthy_within = seconds("healthy_within", healthy_within or Duration.minutes(2), _HEALTHY)
        need(EnclaveImage, image=image)
        need_type(logs.ILogGroup, log_group=log_group)
        if log_group is not None and not is_token(log_group.log_group_name) and not WORD.fullmatch(log_group.log_group_name):
            raise ValueError(
                f"log_group is called {log_group.log_group_name!r:.160}; expected letters, digits and _./- alone, which the host agent takes"
            )
        need_type(s3.IBucket, output_bucket=output_bucket, diagnostics_bucket=diagnostics_bucket)
        self.parent, self.image = parent, image
        slots = _slots(parent)
        need_one_environment(self, parent)
        _need_one_account(self, parent)
        self.slot = slots.claim(
            image.name,
            arch=image.arch,
            cpu_count=image.cpu_count,
            memory_mib=image.memory_mib,
            egress=image.egress,
            cid=cid,
            attests=image.controlled,
        )
        self.log_group = log_group or logs.LogGroup(self, "Logs", retention=logs.RetentionDays.ONE_YEAR)
        self.parameter = f"/nitrokit/{Names.unique_resource_name(self, max_length=64, separator='-')}"
        agent = build_agent()
        self._agent = s3_assets.Asset(self, "Agent", path=str(_kept(agent)))
        self._parameters = {
            "Config": self._config(),
            "AgentUri": self._agent.s3_object_url,
            "AgentSha256": hashlib.sha256(agent).hexdigest(),
        }
        self._role = self._role_here()
        self._grant(diagnostics_bucket)
        self.document = self._make_document("Document", "bootstrap.json.j2")
        self.attest_document = self._make_document("AttestDocument", "attest.json.j2")
        self.status_document = self._make_document("StatusDocument", "status.json.j2")
        self.operate_document = self._make_document("OperateDocument", "operate.json.j2")
        self.runbook = self._make_runbook()
        if isinstance(parent, EnclaveHost):
            self._await_signal(wait)
        self._associate(wait, output_bucket)

    def metric(self, metric_name: str, *, statistic: str | None = None, period: Duration | None = None) -> cloudwatch.Metric:
        """A metric of this enclave on all its parents, in the namespace Nitrokit by ``Enclave``: the agent's, or one that the app prints in the embedded metric format. Default the average over
        five minutes. Whoever is root on a parent can write any of them: they scale and warn, and prove nothing.
        """
        return cloudwatch.Metric(
            namespace=NAMESPACE, metric_name=metric_name, dimensions_map={"Enclave": self.image.name}, statistic=statistic, period=period
        )

    def metric_healthy(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """1 while the agents of all its parents find it healthy, else 0. Default over five minutes."""
        return self.metric(HEALTHY, statistic="Minimum", period=period)

    def metric_app_restarts(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """How often init has started the app again, the most of any parent. Default over five minutes."""
        return self.metric(RESTARTS, statistic="Maximum", period=period)

    def _role_here(self) -> iam.IRole:
        """The parent's role, so that what it is granted stands in this stack: in the parent's it would refer back to what is made here."""
        role = self.parent.role
        return role if Stack.of(role) is Stack.of(self) else iam.Role.from_role_arn(self, "ParentRole", role.role_arn)

    def _grant(self, diagnostics_bucket: s3.IBucket | None) -> None:
        role, agent = self._role, self._agent
        grant_object(role, agent.bucket, agent.s3_object_key)
        self.image.grant_read(role)
        self.log_group.grant_write(role)
        states = Stack.of(self).format_arn(service="ssm", resource="parameter", resource_name=f"{self.parameter.lstrip('/')}/*")
        role.add_to_principal_policy(iam.PolicyStatement(actions=["ssm:PutParameter"], resources=[states]))
        reason = "each instance has a parameter of its own below this path, named by its id"
        acknowledge_wildcards(role, states, reason=reason)
        if diagnostics_bucket is not None:
            self._grant_put(diagnostics_bucket, "*", "a diagnostic archive is named by its time")

    def _grant_put(self, bucket: s3.IBucket, keys: str, reason: str) -> None:
        bucket.grant_put(self._role, keys)
        acknowledge_wildcards(self._role, *BUCKET_WRITES, bucket.arn_for_objects(keys), reason=reason)

    def _associate(self, wait: int, output_bucket: s3.IBucket | None) -> None:
        output = None
        if output_bucket is not None:
            self._grant_put(output_bucket, f"{self.image.name}/*", "each run of a document has a folder of its own")
            location = ssm.CfnAssociation.S3OutputLocationProperty(
                output_s3_bucket_name=output_bucket.bucket_name, output_s3_key_prefix=self.image.name
            )
            output = ssm.CfnAssociation.InstanceAssociationOutputLocationProperty(s3_location=location)
        self.association = ssm.CfnAssociation(
            self,
            "Association",
            name=self.document.ref,
            targets=self.parent.association_targets,
            parameters={name: [value] for name, value in self._parameters.items()},
            compliance_severity="HIGH",
            output_location=output,
            wait_for_success_timeout_seconds=wait,
        )
        # Roles, endpoints and routes first: the agent on the host needs them all.
        self.association.node.add_dependency(self.parent, self._role)

    def _await_signal(self, wait: int) -> None:
        """A host's agent tells CloudFormation how it went. An association alone would fail the stack by its time-out, without a cause; of a fleet nobody knows how many instances will tell.

        A handle takes the signals of one deployment, so another configuration gets another one.
        """
        content = json.dumps(Stack.of(self).resolve([self._parameters["AgentSha256"], self._values()]), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        handle = CfnWaitConditionHandle(self, f"Signal{digest}")
        self._parameters["Signal"] = handle.ref
        condition = CfnWaitCondition(self, f"Healthy{digest}", handle=handle.ref, count=1, timeout=str(min(wait, _LONGEST_CONDITION)))
        condition.node.add_dependency(self.parent)

    def _make_document(self, id: str, template: str) -> ssm.CfnDocument:
        content = render_document(template, name=self.image.name)
        return ssm.CfnDocument(
            self, id, content=content, document_type="Command", update_method="NewVersion", target_type="/AWS::EC2::Instance"
        )

    def _make_runbook(self) -> ssm.CfnDocument:
        content = render_document(
            "runbook.json.j2",
            name=self.image.name,
            bootstrap=self.document.ref,
            operate=self.operate_document.ref,
            config=self._parameters["Config"],
            agent_uri=self._parameters["AgentUri"],
            agent_sha256=self._parameters["AgentSha256"],
        )
        return ssm.CfnDocument(self, "Runbook", content=content, document_type="Automation", update_method="NewVersion")

    def _config(self) -> str:
        """The agent's configuration; the bucket's name is known at deployment only."""
        # Whoever comes later to this parent is in the pool's list too: it is reserved once for all.
        return Stack.of(self).to_json_string({**self._values(), "pool": Lazy.uncached_any(_Pool(self.parent.enclaves))})

    def _values(self) -> dict[str, Any]:
        """The configuration, but for what other bootstraps say."""
        image = self.image
        return {
            "name": image.name,
            **image.host_config(),
            "measurements": {f"PCR{index}": value.hex() for index, value in image.measurements.pcrs().items()},
            "cpu_count": image.cpu_count,
            "memory_mib": image.memory_mib,
            "cid": self.slot.cid,
            "proxies": [{"vsock_port": one.vsock_port, "host": one.host, "port": one.port} for one in image.egress],
            "group": Names.unique_resource_name(self.parent, max_length=128, separator="-"),
            "control_port": _CONTROL_PORT if image.controlled else 0,
            "healthy_within": self._healthy_within,
            "log_group": self.log_group.log_group_name,
            "parameter": self.parameter,
        }


def _slots(parent: EnclaveParent) -> EnclaveSlots:
    found = getattr(parent, "enclaves", None)
    if not isinstance(found, EnclaveSlots):
        raise TypeError(f"parent is of type {type(parent).__name__}; expected EnclaveHost, EnclaveFleet or another EnclaveParent")
    return found


def _need_one_account(bootstrap: Construct, parent: EnclaveParent) -> None:
    """The CDK leaves out, and says nothing, what it cannot grant to a role of another account."""
    ours, theirs = Stack.of(bootstrap).account, parent.role.principal_account
    if theirs is not None and differ(ours, theirs):
        raise ValueError(
            f"the role of {parent.node.path} is of account {theirs}, and {bootstrap.node.path} of {ours}; expected one account: what it must read is granted here"
        )


@jsii.implements(IAnyProducer)
class _Pool:
    """What all enclaves of the parent take, when all are known."""

    def __init__(self, slots: EnclaveSlots) -> None:
        self._slots = slots

    def produce(self, context: IResolveContext) -> Any:
        return [{"name": one.name, "cpu_count": one.cpu_count, "memory_mib": one.memory_mib} for one in self._slots]


def _kept(agent: bytes) -> Path:
    """The agent as a file, for the asset: one for each content, not one for each synthesis."""
    path = cache_dir(os.environ) / "agent" / f"{hashlib.sha256(agent).hexdigest()[:32]}.pyz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [agent])
    return path
