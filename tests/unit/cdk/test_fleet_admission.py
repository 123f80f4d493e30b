"""Admission: the hook, who completes it, and what comes first."""

import json

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.fleet_admission import FleetAdmission


@pytest.fixture
def admitted(new_stack, eif_file, eif_lock):
    def make(**options):
        stack = new_stack()
        fleet = EnclaveFleet(stack, "Fleet")
        image = EnclaveImage.from_eif(stack, "Image", eif_file, name="small", measurements=eif_lock)
        bootstrap = EnclaveBootstrap(stack, "Run", parent=fleet, image=image)
        return stack, fleet, FleetAdmission(stack, "Admission", **{"fleet": fleet, "bootstraps": [bootstrap], **options})

    return make


def test_instances_wait_for_the_function_which_is_there_first(admitted):
    stack, fleet, _ = admitted()
    template = Template.from_stack(stack)
    ((name, group),) = template.find_resources("AWS::AutoScaling::AutoScalingGroup").items()
    (hook,) = group["Properties"]["LifecycleHookSpecificationList"]
    rules = {
        key: one["Properties"]
        for key, one in template.find_resources("AWS::Events::Rule").items()
        if one["Properties"].get("EventPattern", {}).get("source") == ["aws.autoscaling"]
    }
    ((rule, pattern),) = [(key, one["EventPattern"]) for key, one in rules.items()]
    assert pattern["detail"] == {"NotificationMetadata": [hook["NotificationMetadata"]]} == {"NotificationMetadata": [fleet.tag_value]}
    assert rule in group["DependsOn"]
    assert group["UpdatePolicy"]["AutoScalingRollingUpdate"]["WaitOnResourceSignals"] is True
    (function,) = [
        one["Properties"]
        for one in template.find_resources("AWS::Lambda::Function").values()
        if "LOGICAL_ID" in json.dumps(one["Properties"])
    ]
    assert function["Environment"]["Variables"]["LOGICAL_ID"] == name


def test_the_function_may_complete_and_signal_this_fleet_alone(admitted):
    stack, fleet, _ = admitted()
    statements = [
        statement
        for one in Template.from_stack(stack).find_resources("AWS::IAM::Policy").values()
        for statement in one["Properties"]["PolicyDocument"]["Statement"]
    ]
    (complete,) = [one for one in statements if one["Action"] == "autoscaling:CompleteLifecycleAction"]
    assert complete["Condition"] == {"StringEquals": {"autoscaling:ResourceTag/nitrokit:fleet": fleet.tag_value}}
    (signal,) = [one for one in statements if one["Action"] == "cloudformation:SignalResource"]
    assert signal["Resource"] == {"Ref": "AWS::StackId"}


def test_what_cannot_be_awaited_is_refused(admitted, eif_file, eif_lock):
    for timeout in (59, 3601):
        with pytest.raises(ValueError, match="out of range"):
            admitted(timeout=cdk.Duration.seconds(timeout))
    with pytest.raises(ValueError, match="no bootstrap"):
        admitted(bootstraps=[])
    stack, fleet, _ = admitted()
    with pytest.raises(ValueError, match="another parent"):
        admitted(fleet=fleet)
    silent = EnclaveImage.from_eif(stack, "Silent", eif_file, name="silent", measurements=eif_lock, controlled=False)
    with pytest.raises(ValueError, match="S/Silent has another init"):
        FleetAdmission(stack, "Never", fleet=fleet, bootstraps=[EnclaveBootstrap(stack, "RunSilent", parent=fleet, image=silent)])


def test_a_fleet_has_one_admission(admitted):
    stack, fleet, _ = admitted()
    bootstraps = [stack.node.find_child("Run")]
    with pytest.raises(ValueError, match="S/Fleet has an admission already; expected one, with all bootstraps"):
        FleetAdmission(stack, "Second", fleet=fleet, bootstraps=bootstraps)


@pytest.mark.parametrize("controlled", [True, False])
def test_no_enclave_that_can_be_asked_goes_into_service_unasked(admitted, eif_file, eif_lock, controlled):
    """Also one that is put on the fleet after its admission was made."""
    stack, fleet, _ = admitted()
    later = EnclaveImage.from_eif(stack, "Later", eif_file, name="later", measurements=eif_lock, controlled=controlled)
    EnclaveBootstrap(stack, "RunLater", parent=fleet, image=later)
    if not controlled:
        Template.from_stack(stack)
        return
    with pytest.raises(RuntimeError, match="later of S/Fleet would go into service without proof"):
        Template.from_stack(stack)


def test_nag_finds_nothing(admitted):
    stack, _, _ = admitted(timeout=cdk.Duration.minutes(60))
    report = AwsSolutionsChecks(stack.node.root).validate_scope(stack.node.root)
    assert [(one.rule_name, one.description) for one in report.violations] == []
