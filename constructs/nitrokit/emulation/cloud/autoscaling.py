"""EC2 Auto Scaling where moto 5.2.5 falls short: instances have what their launch template says, and wait in a launch hook, of which EventBridge is told, until it is completed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from nitrokit.emulation.cloud import patching

_LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"
WAITING, IN_SERVICE = "Pending:Wait", "InService"


def install() -> Callable[[], None]:
    """Put the helpers into moto; returns what takes them out again."""
    from moto.autoscaling.models import FakeAutoScalingGroup
    from moto.autoscaling.responses import AutoScalingResponse
    from moto.cloudformation.responses import CloudFormationResponse

    restores = ExitStack()
    group = FakeAutoScalingGroup
    launching, creating = _launching(group.replace_autoscaling_group_instances), _with_hooks(group.create_from_cloudformation_json.__func__)
    restores.callback(
        patching.put(group, replace_autoscaling_group_instances=launching, create_from_cloudformation_json=classmethod(creating))
    )
    restores.callback(patching.put(AutoScalingResponse, complete_lifecycle_action=_complete_lifecycle_action))
    restores.callback(patching.put(CloudFormationResponse, signal_resource=_signal_resource))
    return restores.close


def _launching(original: Callable[..., None]) -> Callable[..., None]:
    def replace_autoscaling_group_instances(group: Any, *arguments: Any, **named: Any) -> None:
        before = len(group.instance_states)
        original(group, *arguments, **named)
        for state in group.instance_states[before:]:
            _launched(group, state)

    return replace_autoscaling_group_instances


def _launched(group: Any, state: Any) -> None:
    template = group.autoscaling_backend.ec2_backend.get_launch_template(group.ec2_launch_template.id).latest_version().data
    state.instance.enclave_enabled = str(template.get("EnclaveOptions", {}).get("Enabled", False)).lower() == "true"
    profile = template.get("IamInstanceProfile", {})
    state.instance.profile_name = profile.get("Name") or profile.get("Arn")
    hook = getattr(group, "launch_hook", None)
    if hook is not None:
        _hold(group, state, hook)


def _with_hooks(original: Callable[..., Any]) -> Callable[..., Any]:
    """While moto creates the group it launches already, before it could know of hooks."""

    def create(cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any) -> Any:
        group = original(cls, resource_name, cloudformation_json, account_id, region_name, **named)
        hooks = cloudformation_json["Properties"].get("LifecycleHookSpecificationList", [])
        group.launch_hook = next((one for one in hooks if one["LifecycleTransition"] == _LAUNCHING), None)
        for state in group.instance_states if group.launch_hook else ():
            _hold(group, state, group.launch_hook)
        return group

    return create


def _hold(group: Any, state: Any, hook: Mapping[str, Any]) -> None:
    """Source of the event's form: Amazon EC2 Auto Scaling User Guide, "EventBridge event reference"."""
    from moto.events.models import events_backends

    state.lifecycle_state, state.launch_token = WAITING, str(uuid.uuid4())
    detail = {
        "LifecycleActionToken": state.launch_token,
        "AutoScalingGroupName": group.name,
        "LifecycleHookName": hook["LifecycleHookName"],
        "EC2InstanceId": state.instance.id,
        "LifecycleTransition": _LAUNCHING,
        "NotificationMetadata": hook.get("NotificationMetadata"),
    }
    backend = group.autoscaling_backend
    event = {"source": "aws.autoscaling", "detail-type": "EC2 Instance-launch Lifecycle Action", "detail": detail}
    for rule in list(events_backends[backend.account_id][backend.region_name].event_buses["default"].rules.values()):
        rule.send_to_targets({**event, "account": backend.account_id, "region": backend.region_name, "resources": [group.arn]})


def _complete_lifecycle_action(response: Any) -> Any:
    from moto.autoscaling.exceptions import ValidationError
    from moto.core.responses import EmptyResult

    backend = response.autoscaling_backend
    group = backend.autoscaling_groups.get(response._get_param("AutoScalingGroupName"))
    token = response._get_param("LifecycleActionToken")
    state = next((one for one in group.instance_states if getattr(one, "launch_token", None) == token), None) if group else None
    if state is None or state.lifecycle_state != WAITING:
        raise ValidationError("No active Lifecycle Action found")
    state.lifecycle_state = IN_SERVICE if response._get_param("LifecycleActionResult") == "CONTINUE" else "Terminating"
    return EmptyResult()


def _signal_resource(response: Any) -> Any:
    """Deployments here replace instances without waiting, so nobody waits for a signal."""
    from moto.cloudformation.exceptions import ValidationError

    raise ValidationError(message=f"Stack {response._get_param('StackName')} does not wait for signals")
