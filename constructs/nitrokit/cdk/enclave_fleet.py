"""EnclaveFleet: parents in several zones that replace each other, each like an EnclaveHost."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Acknowledgment, Duration, Names, Size, Stack, Tags, Validations
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrokit.cdk import parent_parts
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.cdk.known import is_token, need, need_each, need_known, need_type, need_within
from nitrokit.cdk.parent import EnclaveSlots, imported_slots

FLEET_TAG = "nitrokit:fleet"
HOOK = "attested"
_PORTS = range(1, 65_536)
_TERMINATION = [autoscaling.TerminationPolicy.OLDEST_LAUNCH_TEMPLATE, autoscaling.TerminationPolicy.DEFAULT]


class EnclaveFleet(Construct):
    """An Auto Scaling group of parent instances over the network's zones, from a launch template with what an EnclaveHost has.

    - ``images``, ``network``, ``machine_image``, ``role_name``, ``volume_size``, ``volume_key``: as of EnclaveHost; all instances are alike, and have one role.
    - ``instance_types``: default one type, the smallest that holds the enclaves. Several are taken in this order, as there is capacity; each must hold all enclaves.
    - ``min_capacity``: default 2; ``max_capacity``: default twice that. While a deployment replaces instances, ``min_capacity`` of them stay in service, so it must be less than
      ``max_capacity``. Both may be tokens, ``min_capacity`` beside a ``max_capacity`` alone.

    Instances are replaced one by one when the launch template changes. With a FleetAdmission an instance goes into service, and the next one is replaced, only when its enclaves have
    proven by attestation what they run; without one, as soon as it runs. ``capacity_alarm``: fewer than ``min_capacity`` are in service; it has no action yet.
    Raises SizingError as EnclaveHost does, ValueError for capacities that leave no room.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        images: Sequence[EnclaveImage] = (),
        network: EnclaveNetwork | None = None,
        instance_types: Sequence[ec2.InstanceType] = (),
        min_capacity: int = 2,
        max_capacity: int | None = None,
        machine_image: ec2.IMachineImage | None = None,
        role_name: str | None = None,
        volume_size: Size | None = None,
        volume_key: kms.IKey | None = None,
    ) -> None:
        super().__init__(scope, id)
        if not is_token(min_capacity):
            need(int, min_capacity=min_capacity)
        if not is_token(max_capacity):
            need_type(int, max_capacity=max_capacity)
        if max_capacity is None:
            need_known(min_capacity=min_capacity)
        largest = 2 * min_capacity if max_capacity is None else max_capacity
        if not (is_token(min_capacity) or is_token(largest)) and not 0 < min_capacity < largest:
            raise ValueError(
                f"min_capacity {min_capacity} and max_capacity {largest} leave no room; expected 0 < min_capacity < max_capacity"
            )
        self.enclaves = EnclaveSlots()
        self.min_capacity = min_capacity
        kinds = parent_parts.Sizing(self, self.enclaves, instance_types, images).kinds
        need_type(EnclaveNetwork, network=network)
        self.network = network or EnclaveNetwork(self, "Network")
        parent_parts.prepare_network(self.network, images)
        self.role: iam.IRole = parent_parts.make_role(self, role_name)
        self.security_group = parent_parts.make_group(self, self.network)
        self.launch_template = ec2.LaunchTemplate(
            self,
            "LaunchTemplate",
            instance_type=kinds[0],
            machine_image=parent_parts.machine_image(machine_image, kinds[0]),
            role=self.role,
            security_group=self.security_group,
            nitro_enclave_enabled=True,
            http_endpoint=True,
            http_tokens=ec2.LaunchTemplateHttpTokens.REQUIRED,
            http_put_response_hop_limit=1,
            detailed_monitoring=True,
            block_devices=[parent_parts.root_volume(volume_size, volume_key)],
        )
        self.auto_scaling_group = self._make_group(kinds, largest)
        # With the stack's name, which its path may lack: one app may be deployed twice into an account.
        self.tag_value = Names.unique_resource_name(self, max_length=128, separator="-")
        Tags.of(self.auto_scaling_group).add(FLEET_TAG, self.tag_value)
        self.capacity_alarm = self._make_alarm()

    @staticmethod
    def from_tag(scope: Construct, id: str, *, tag_value: str, role: iam.IRole) -> ImportedFleet:
        """A fleet that another stack owns: instances with the tag ``nitrokit:fleet`` of this value (``fleet.tag_value`` there), and their role."""
        return ImportedFleet(scope, id, tag_value=tag_value, role=role)

    def _make_group(self, kinds: Sequence[ec2.InstanceType], largest: int) -> autoscaling.AutoScalingGroup:
        mixed = autoscaling.MixedInstancesPolicy(
            launch_template=self.launch_template,
            launch_template_overrides=[autoscaling.LaunchTemplateOverrides(instance_type=kind) for kind in kinds],
            instances_distribution=autoscaling.InstancesDistribution(
                on_demand_percentage_above_base_capacity=100,
                on_demand_allocation_strategy=autoscaling.OnDemandAllocationStrategy.PRIORITIZED,
            ),
        )
        several = len(kinds) > 1
        group = autoscaling.AutoScalingGroup(
            self,
            "Instances",
            vpc=self.network.vpc,
            vpc_subnets=self.network.subnets,
            launch_template=None if several else self.launch_template,
            mixed_instances_policy=mixed if several else None,
            min_capacity=self.min_capacity,
            max_capacity=largest,
            update_policy=autoscaling.UpdatePolicy.rolling_update(min_instances_in_service=self.min_capacity, max_batch_size=1),
            termination_policies=_TERMINATION,
            group_metrics=[autoscaling.GroupMetrics.all()],
        )
        reason = "who wants to hear of every scaling names a topic: fleet.auto_scaling_group.node.default_child.notification_configurations"
        Validations.of(group).acknowledge(Acknowledgment(id="AwsSolutions-AS3", reason=reason))
        reason = "the launch template encrypts its volumes; the rule does not look into templates"
        Validations.of(group).acknowledge(Acknowledgment(id="AwsSolutions-EC26", reason=reason))
        return group

    def _make_alarm(self) -> cloudwatch.Alarm:
        return cloudwatch.Alarm(
            self,
            "CapacityAlarm",
            metric=self.metric_in_service(),
            threshold=self.min_capacity,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            evaluation_periods=3,
            treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
            alarm_description="Fewer parent instances are in service than the fleet shall have: read the activities of its Auto Scaling group",
        )

    def await_admission(self, timeout: Duration) -> None:
        """Let instances into service, and a deployment go on, only when somebody completes the lifecycle hook ``attested`` and signals the stack, as FleetAdmission does.

        After ``timeout`` they are ended.
        """
        group = self.cfn_group
        if group.lifecycle_hook_specification_list:
            raise ValueError(f"{self.node.path} has an admission already; expected one, with all bootstraps")
        # In the group itself: a hook that comes after it would miss its first instances.
        group.lifecycle_hook_specification_list = [
            autoscaling.CfnAutoScalingGroup.LifecycleHookSpecificationProperty(
                lifecycle_hook_name=HOOK,
                lifecycle_transition="autoscaling:EC2_INSTANCE_LAUNCHING",
                heartbeat_timeout=int(timeout.to_seconds()),
                default_result="ABANDON",
                notification_metadata=self.tag_value,
            )
        ]
        group.add_override("UpdatePolicy.AutoScalingRollingUpdate.WaitOnResourceSignals", True)
        group.add_override("UpdatePolicy.AutoScalingRollingUpdate.PauseTime", timeout.to_iso_string())

    def add_load_balancer(self, *, port: int, parent_port: int, peers: Sequence[ec2.IPeer] = ()) -> elbv2.NetworkLoadBalancer:
        """An internal Network Load Balancer: TCP ``port`` goes, encrypted or not, to ``parent_port`` of the parents, where something must lead it to the enclave's vsock port.

        ``peers``: who may connect; default the VPC's addresses. It is the one way into a parent. Raises ValueError for a port out of range, and for an imported VPC that does not tell its
        addresses.
        """
        need_within(_PORTS, port=port, parent_port=parent_port)
        need_each(ec2.IPeer, peers=peers)
        front = ec2.SecurityGroup(
            self, "BalancerGroup", vpc=self.network.vpc, description="In front of the parents", allow_all_outbound=False
        )
        for peer in peers or [ec2.Peer.ipv4(self.network.addresses)]:
            front.add_ingress_rule(peer, ec2.Port.tcp(port), "clients of the enclaves")
        reason = "the VPC's own addresses, where nobody else is named; the rule does not read a reference"
        Validations.of(front).acknowledge(Acknowledgment(id="AwsSolutions-EC23", reason=reason))
        front.add_egress_rule(self.security_group, ec2.Port.tcp(parent_port), "parents")
        self.security_group.add_ingress_rule(front, ec2.Port.tcp(parent_port), "the load balancer")
        balancer = elbv2.NetworkLoadBalancer(
            self, "Balancer", vpc=self.network.vpc, vpc_subnets=self.network.subnets, internet_facing=False, security_groups=[front]
        )
        listener = balancer.add_listener("Listener", port=port, protocol=elbv2.Protocol.TCP)
        listener.add_targets("Parents", port=parent_port, protocol=elbv2.Protocol.TCP, targets=[self.auto_scaling_group])
        reason = "access logs of a Network Load Balancer tell TLS connections that it ends itself, and it ends none: enclaves do"
        Validations.of(balancer).acknowledge(Acknowledgment(id="AwsSolutions-ELB2", reason=reason))
        return balancer

    @property
    def cfn_group(self) -> autoscaling.CfnAutoScalingGroup:
        """The group's resource in the template."""
        group = self.auto_scaling_group.node.default_child
        assert isinstance(group, autoscaling.CfnAutoScalingGroup)
        return group

    @property
    def association_targets(self) -> list[ssm.CfnAssociation.TargetProperty]:
        """Its instances, by the tag that each has from its launch."""
        return _targets(self.tag_value)

    def metric(self, metric_name: str, *, statistic: str | None = None, period: Duration | None = None) -> cloudwatch.Metric:
        """A metric of the group in AWS/AutoScaling, e.g. "GroupInServiceInstances"; default the average over five minutes."""
        return cloudwatch.Metric(
            namespace="AWS/AutoScaling",
            metric_name=metric_name,
            dimensions_map={"AutoScalingGroupName": self.auto_scaling_group.auto_scaling_group_name},
            statistic=statistic,
            period=period,
        )

    def metric_in_service(self) -> cloudwatch.Metric:
        """Instances in service, the fewest of each minute."""
        return self.metric("GroupInServiceInstances", statistic="Minimum", period=Duration.minutes(1))

    def grant_send_command(self, grantee: iam.IGrantable, document: ssm.CfnDocument) -> iam.Grant:
        """Let somebody run one SSM document on the fleet's instances."""
        return parent_parts.grant_send_command(self, grantee, document, self.association_targets[0])


class ImportedFleet(Construct):
    """A fleet by its tag: an ``EnclaveParent``."""

    def __init__(self, scope: Construct, id: str, *, tag_value: str, role: iam.IRole) -> None:
        super().__init__(scope, id)
        need(str, tag_value=tag_value)
        need(iam.IRole, role=role)
        self.tag_value = tag_value
        self.role = role
        self.enclaves = imported_slots(self, self._is)

    @property
    def association_targets(self) -> list[ssm.CfnAssociation.TargetProperty]:
        """Its instances, by their tag."""
        return _targets(self.tag_value)

    def _is(self, other: object) -> bool:
        """As far as synthesis knows: another Region or account may have a fleet of this tag too."""
        if not isinstance(other, ImportedFleet) or other.tag_value != self.tag_value:
            return False
        ours, theirs = Stack.of(self), Stack.of(other)
        return ours is theirs or (not is_token(ours.account + ours.region) and ours.environment == theirs.environment)


def _targets(tag_value: str) -> list[ssm.CfnAssociation.TargetProperty]:
    return [ssm.CfnAssociation.TargetProperty(key=f"tag:{FLEET_TAG}", values=[tag_value])]
