"""Fleets: instances as hosts have them, replaced one by one, and the one way in."""

import json
from types import SimpleNamespace
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk.assertions import Match, Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.parent import EnclaveParent
from nitrokit.core.sizing import SizingError
from nitrokit.host import cloudwatch as publishing


def _one(stack, kind):
    (found,) = Template.from_stack(stack).find_resources(kind).values()
    return found


def _kinds(*names):
    return [ec2.InstanceType(name) for name in names]


def test_an_instance_is_launched_as_a_host_is(new_stack):
    stack = new_stack()
    EnclaveFleet(stack, "Fleet")
    data = _one(stack, "AWS::EC2::LaunchTemplate")["Properties"]["LaunchTemplateData"]
    other = new_stack()
    EnclaveHost(other, "Host")
    instance = _one(other, "AWS::EC2::Instance")["Properties"]
    for name in ("EnclaveOptions", "MetadataOptions", "BlockDeviceMappings", "InstanceType", "ImageId"):
        assert data[name] == instance[name], name
    assert not {"KeyName", "HibernationOptions", "UserData"} & set(data)
    assert "AssociatePublicIpAddress" not in json.dumps(data)


def test_every_instance_can_be_told_by_its_tag(new_stack, eif_file, eif_lock):
    stack = new_stack()
    fleet: EnclaveParent = EnclaveFleet(stack, "Fleet")
    image = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=eif_lock)
    EnclaveBootstrap(stack, "Run", parent=fleet, image=image)
    (target,) = _one(stack, "AWS::SSM::Association")["Properties"]["Targets"]
    tags = _one(stack, "AWS::AutoScaling::AutoScalingGroup")["Properties"]["Tags"]
    assert target["Key"] == "tag:nitrokit:fleet"
    assert {"Key": "nitrokit:fleet", "PropagateAtLaunch": True, "Value": target["Values"][0]} in tags
    assert _one(stack, "AWS::EC2::LaunchTemplate")["Properties"]["LaunchTemplateData"]["InstanceType"] == "c6i.xlarge"


def test_two_fleets_are_two(new_stack):
    stack = new_stack()
    one, other = EnclaveFleet(stack, "One"), EnclaveFleet(stack, "Other")
    assert one.tag_value != other.tag_value


def test_instances_are_replaced_one_by_one_when_attested(new_stack):
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet", min_capacity=3, max_capacity=4)
    fleet.await_admission(cdk.Duration.minutes(20))
    group = _one(stack, "AWS::AutoScaling::AutoScalingGroup")
    rolling = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
    assert (rolling["MinInstancesInService"], rolling["MaxBatchSize"]) == (3, 1)
    assert (rolling["WaitOnResourceSignals"], rolling["PauseTime"]) == (True, "PT20M")
    (hook,) = group["Properties"]["LifecycleHookSpecificationList"]
    assert (hook["DefaultResult"], hook["HeartbeatTimeout"], hook["LifecycleTransition"]) == (
        "ABANDON",
        1200,
        "autoscaling:EC2_INSTANCE_LAUNCHING",
    )


def test_several_types_are_taken_in_order(new_stack):
    stack = new_stack()
    EnclaveFleet(stack, "Fleet", instance_types=_kinds("m6i.xlarge", "m5.xlarge"))
    policy = _one(stack, "AWS::AutoScaling::AutoScalingGroup")["Properties"]["MixedInstancesPolicy"]
    assert [one["InstanceType"] for one in policy["LaunchTemplate"]["Overrides"]] == ["m6i.xlarge", "m5.xlarge"]
    assert policy["InstancesDistribution"] == {"OnDemandAllocationStrategy": "prioritized", "OnDemandPercentageAboveBaseCapacity": 100}


def test_what_cannot_be_a_fleet_is_refused(new_stack, eif_file, eif_lock):
    stack = new_stack()
    with pytest.raises(SizingError, match="one architecture") as caught:
        EnclaveFleet(stack, "Mixed", instance_types=_kinds("m6i.xlarge", "m99x.xlarge", "m7g.xlarge"))
    assert (caught.value.code, caught.value.got) == ("sizing/mixed-types", "m6i.xlarge: x86_64, m7g.xlarge: aarch64")
    with pytest.raises(SizingError, match="does not support"):
        EnclaveFleet(stack, "T3", instance_types=_kinds("m6i.xlarge", "t3.xlarge"))
    big = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=eif_lock, cpu_count=4)
    with pytest.raises(SizingError, match=r"m6i\.xlarge cannot hold small"):
        EnclaveFleet(stack, "Small", images=[big], instance_types=_kinds("m6i.2xlarge", "m6i.xlarge"))
    for capacities in ((0, 1), (2, 2), (3, 2)):
        with pytest.raises(ValueError, match="leave no room"):
            EnclaveFleet(stack, f"Full{capacities}", min_capacity=capacities[0], max_capacity=capacities[1])


def test_the_load_balancer_is_the_one_way_in(new_stack):
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet")
    closed = Template.from_stack(stack).find_resources("AWS::EC2::SecurityGroupIngress").values()
    assert {"Endpoints" in json.dumps(one["Properties"]["GroupId"]) for one in closed} == {True}
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet")
    fleet.add_load_balancer(port=443, parent_port=9443, peers=[ec2.Peer.ipv4("10.0.0.0/8")])
    template = Template.from_stack(stack)
    template.has_resource_properties("AWS::ElasticLoadBalancingV2::LoadBalancer", {"Scheme": "internal", "Type": "network"})
    template.has_resource_properties("AWS::ElasticLoadBalancingV2::TargetGroup", {"Port": 9443, "Protocol": "TCP"})
    rules = [one["Properties"] for one in template.find_resources("AWS::EC2::SecurityGroupIngress").values()]
    into_parents = [one for one in rules if "Endpoints" not in json.dumps(one["GroupId"])]
    assert [(one["FromPort"], "Balancer" in json.dumps(one["SourceSecurityGroupId"])) for one in into_parents] == [(9443, True)]


def test_too_few_in_service_is_an_alarm(new_stack):
    stack = new_stack()
    EnclaveFleet(stack, "Fleet", min_capacity=3)
    expected = {
        "MetricName": "GroupInServiceInstances",
        "Threshold": 3,
        "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "breaching",
    }
    Template.from_stack(stack).has_resource_properties("AWS::CloudWatch::Alarm", expected)


def test_the_group_scales_on_any_metric(new_stack):
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet")
    metric = cdk.aws_cloudwatch.Metric(namespace="Mine", metric_name="Sessions", dimensions_map={"Enclave": "small"})
    fleet.auto_scaling_group.scale_to_track_metric("Sessions", metric=metric, target_value=100)
    expected = {
        "TargetTrackingConfiguration": {"CustomizedMetricSpecification": Match.object_like({"Namespace": "Mine"}), "TargetValue": 100}
    }
    Template.from_stack(stack).has_resource_properties("AWS::AutoScaling::ScalingPolicy", expected)


def _published(name, values):
    """(namespace, metric, dimensions) of what the agent tells, as CloudWatch takes them out of its line (CloudWatch User Guide "Embedded metric format specification")."""
    line = json.loads(publishing.metric(cast(Any, SimpleNamespace(name=name)), values))
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    dimensions = [{one: line[one] for one in names} for names in directive["Dimensions"]]
    assert all(one["Name"] in line for one in directive["Metrics"])
    return [(directive["Namespace"], one["Name"], found) for one in directive["Metrics"] for found in dimensions]


def test_metrics_of_enclaves_are_those_that_the_agent_publishes_and_a_fleet_scales_on_them(new_stack, eif_file, eif_lock):
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet")
    image = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=eif_lock)
    bootstrap = EnclaveBootstrap(stack, "Run", parent=fleet, image=image)
    wanted = [bootstrap.metric_healthy(), bootstrap.metric_app_restarts()]
    told = _published("small", {publishing.HEALTHY: 1.0, publishing.RESTARTS: 0.0})
    assert [(one.namespace, one.metric_name, one.dimensions) in told for one in wanted] == [True, True]
    fleet.auto_scaling_group.scale_to_track_metric("Load", metric=bootstrap.metric("Requests"), target_value=50)
    tracked = _one(stack, "AWS::AutoScaling::ScalingPolicy")["Properties"]["TargetTrackingConfiguration"]["CustomizedMetricSpecification"]
    assert (tracked["Namespace"], tracked["MetricName"], tracked["Statistic"]) == ("Nitrokit", "Requests", "Average")
    assert tracked["Dimensions"] == [{"Name": "Enclave", "Value": "small"}]


def test_a_command_is_granted_for_the_fleets_instances(new_stack):
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet")
    document = cdk.aws_ssm.CfnDocument(stack, "Document", content={"schemaVersion": "2.2"})
    user = iam.Role(stack, "User", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    fleet.grant_send_command(user, document)
    policies = [
        one["Properties"]["PolicyDocument"]["Statement"] for one in Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
    ]
    (tagged,) = [one for statements in policies for one in statements if "Condition" in one]
    assert tagged["Condition"] == {"StringEquals": {"ssm:resourceTag/nitrokit:fleet": [fleet.tag_value]}}


def test_a_fleet_elsewhere_runs_enclaves_too(new_stack, eif_file, eif_lock):
    stack = new_stack()
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::123456789012:role/parent")
    fleet: EnclaveParent = EnclaveFleet.from_tag(stack, "Fleet", tag_value="Other", role=role)
    image = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=eif_lock)
    EnclaveBootstrap(stack, "Run", parent=fleet, image=image)
    assert _one(stack, "AWS::SSM::Association")["Properties"]["Targets"] == [{"Key": "tag:nitrokit:fleet", "Values": ["Other"]}]


def test_nag_finds_nothing_in_a_fleet(new_stack):
    stack = new_stack()
    fleet = EnclaveFleet(stack, "Fleet", instance_types=_kinds("m6i.xlarge", "m5.xlarge"))
    fleet.await_admission(cdk.Duration.minutes(15))
    fleet.add_load_balancer(port=443, parent_port=9443)
    report = AwsSolutionsChecks(stack.node.root).validate_scope(stack.node.root)
    assert [(one.rule_name, one.description) for one in report.violations] == []
