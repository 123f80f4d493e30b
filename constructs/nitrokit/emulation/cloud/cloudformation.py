"""CloudFormation where moto 5.2.5 falls short: change sets run in the background in dependency order, failures say why and end as rolled back (nothing is undone), outputs appear, unknown
types are refused, and types that moto skips in silence exist: AWS::SSM::Association (runs the document, and waits for it), AWS::EC2::Instance's EnclaveOptions, custom resources.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import ModuleType
from typing import Any

from nitrokit.emulation.cloud import custom_resources, patching, subscriptions, wait_conditions
from nitrokit.emulation.cloud.dependencies import custom_resources_first, ordered_diff, unless_retained
from nitrokit.emulation.cloud.ssm import Outcome, SystemsManager

_NO_BEHAVIOUR = (
    "AWS::CDK::Metadata",
    "AWS::S3::BucketPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::FlowLog",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Url",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    wait_conditions.CONDITION,
)
"""Types that may be there and do nothing locally. Any other that moto does not know fails the stack."""


_AT_ONCE = 4  # instances that an association runs on; more would only wait for the processors here

PutKeyPolicy = Callable[[str, str], object]


def install(
    systems_manager: SystemsManager, put_key_policy: PutKeyPolicy, endpoint_url: Callable[[], str], invoke: custom_resources.Invoke
) -> Callable[[], None]:
    """Put the helpers into moto (this process is the cloud's own); returns what takes them out again. ``put_key_policy``: a key's id and policy, as the role that deploys.
    ``endpoint_url``: the cloud's own. ``invoke``: runs a custom resource's function.
    """
    from moto.cloudformation import models, parsing
    from moto.cloudformation.responses import CloudFormationResponse
    from moto.ec2.models.instances import Instance
    from moto.kms.models import Key
    from moto.ssm.models import Document

    restores = ExitStack()

    def put(owner: type | ModuleType, **attributes: Any) -> None:
        restores.callback(patching.put(owner, **attributes))

    backend, resources = models.CloudFormationBackend, parsing.ResourceMap
    put(backend, execute_change_set=_execute_change_set, delete_stack=_told_failure(backend.delete_stack))
    put(CloudFormationResponse, describe_change_set=_describe_change_set, delete_change_set=_delete_change_set)
    put(parsing, parse_and_update_resource=_kept(parsing.parse_and_update_resource))
    put(
        resources,
        build_resource_diff=ordered_diff(resources.build_resource_diff),
        delete=custom_resources_first(resources.delete),
        _delete_resource=unless_retained(resources._delete_resource),
        parse_ssm_parameter=_resolved_once(resources.parse_ssm_parameter),
    )
    put(Instance, create_from_cloudformation_json=classmethod(_instance_with_options(Instance.create_from_cloudformation_json.__func__)))
    put(
        Key,
        create_from_cloudformation_json=classmethod(_key_of_its_kind),
        # moto's own is the base class's, which refuses.
        update_from_cloudformation_json=classmethod(_key_update(put_key_policy)),
    )
    put(Document, create_from_cloudformation_json=classmethod(_document_with_defaults(Document.create_from_cloudformation_json.__func__)))
    known = parsing.get_model_map()
    own = {
        "AWS::SSM::Association": _association(systems_manager),
        wait_conditions.HANDLE: wait_conditions.handle(_inert(wait_conditions.HANDLE), endpoint_url),
        subscriptions.TYPE: subscriptions.subscription(_inert(subscriptions.TYPE)),
        **{name: _inert(name) for name in _NO_BEHAVIOUR if name not in known},
    }
    moto_class = parsing.resource_class_from_type
    custom = custom_resources.custom_resource(_inert(custom_resources.TYPE), custom_resources.Provider(invoke, endpoint_url))

    def class_of(resource_type: str) -> Any:
        return custom if custom_resources.is_custom(resource_type) else own.get(resource_type) or moto_class(resource_type)

    put(parsing, resource_class_from_type=class_of)
    return restores.close


def _change_set(backend: Any, name: str, stack_name: str | None = None) -> Any:
    from moto.cloudformation.exceptions import ValidationError

    for identifier, change_set in backend.change_sets.items():
        if name in (identifier, change_set.change_set_name) and stack_name in (None, change_set.stack_name, change_set.stack_id):
            return change_set
    raise ValidationError(message=f"ChangeSet [{name}] does not exist")


def _describe_change_set(response: Any) -> Any:
    """Of this stack: moto takes the last of the name, and the CDK names all of its change sets alike."""
    from moto.cloudformation.exceptions import ValidationError
    from moto.core.exceptions import ServiceException
    from moto.core.responses import ActionResult

    class ChangeSetNotFound(ServiceException):
        code = "ChangeSetNotFound"

    name = response._get_param("ChangeSetName")
    try:
        return ActionResult(_change_set(response.cloudformation_backend, name, response._get_param("StackName")))
    except ValidationError:
        raise ChangeSetNotFound(f"ChangeSet [{name}] does not exist") from None


def _delete_change_set(response: Any) -> Any:
    """Of this stack; deleting what is not there succeeds."""
    from moto.cloudformation.exceptions import ValidationError
    from moto.core.responses import EmptyResult

    backend = response.cloudformation_backend
    with suppress(ValidationError):
        del backend.change_sets[_change_set(backend, response._get_param("ChangeSetName"), response._get_param("StackName")).change_set_id]
    return EmptyResult()


def _execute_change_set(backend: Any, change_set_name: str, stack_name: str | None = None) -> None:
    """Start; the caller follows the stack's events, as with the real service. A stack that is being changed takes no other change."""
    from moto.cloudformation.exceptions import ValidationError

    change_set = _change_set(backend, change_set_name, stack_name)
    stack = backend.stacks[change_set.stack_id]
    if stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
        raise ValidationError(message=f"Stack:{stack.stack_id} is in {stack.status} state and can not be updated.")
    verb = "CREATE" if change_set.change_set_type == "CREATE" else "UPDATE"
    stack.status = f"{verb}_IN_PROGRESS"
    stack._add_stack_event(f"{verb}_IN_PROGRESS", resource_status_reason="User Initiated")
    threading.Thread(target=_apply, args=(stack, change_set, verb), daemon=True).start()


def _apply(stack: Any, change_set: Any, verb: str) -> None:
    from moto.cloudformation.parsing import OutputMap

    try:
        _refuse_unknown_types(change_set.template_dict)
        change_set.apply()
        stack.template, stack.template_dict = change_set.template, change_set.template_dict
        stack.output_map = OutputMap(stack.resource_map, change_set.template_dict, stack.stack_id)
        _ = stack.outputs
    except (Exception, custom_resources.Failed) as error:
        _tell(stack, f"{verb}_FAILED", error)
        _finish(stack, "ROLLBACK_COMPLETE" if verb == "CREATE" else "UPDATE_ROLLBACK_COMPLETE", change_set, "EXECUTE_FAILED")
        return
    _finish(stack, f"{verb}_COMPLETE", change_set, "EXECUTE_COMPLETE")


def _tell(stack: Any, status: str, error: BaseException) -> None:
    reason = str(getattr(error, "message", None) or error) or type(error).__name__
    stack._add_stack_event(status, resource_status_reason=reason[:1000])
    stack.status_reason = reason[:1000]


def _told_failure(original: Callable[..., None]) -> Callable[..., None]:
    """A stack whose custom resource cannot be deleted is still there, and says why; moto would forget it."""

    def delete_stack(backend: Any, name_or_stack_id: str) -> None:
        stack = backend.stacks.get(name_or_stack_id)
        try:
            original(backend, name_or_stack_id)
        except custom_resources.Failed as error:
            _tell(stack, "DELETE_FAILED", error)
            stack.status = "DELETE_FAILED"
            backend.stacks[stack.stack_id] = stack

    return delete_stack


def _finish(stack: Any, status: str, change_set: Any, execution: str) -> None:
    change_set.execution_status = execution
    stack._add_stack_event(status)
    stack.status = status


def _refuse_unknown_types(template: Mapping[str, Any]) -> None:
    from moto.cloudformation import parsing

    unknown = sorted({one["Type"] for one in template["Resources"].values() if not parsing.resource_class_from_type(one["Type"])})
    if unknown:
        raise ValueError(f"resource types that the local CloudFormation does not have: {', '.join(unknown)}")


def _kept(original: Callable[..., Any]) -> Callable[..., Any]:
    """A resource whose type moto cannot update stays as it is; moto would forget it. It also takes one for changed whose SSM parameter is said by value instead of by name."""

    def parse_and_update_resource(logical_id: str, resource_json: Any, resources_map: Any, **named: Any) -> Any:
        before = resources_map[logical_id]
        return original(logical_id, resource_json, resources_map, **named) or before

    return parse_and_update_resource


def _resolved_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse_ssm_parameter(resource_map: Any, value: str, value_type: str) -> Any:
        # With UsePreviousValue the value that arrives is resolved already.
        return original(resource_map, value, value_type) if value.startswith("/") else value

    return parse_ssm_parameter


def _instance_with_options(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any) -> Any:
        instance = original(cls, resource_name, cloudformation_json, account_id, region_name, **named)
        instance.enclave_enabled = str(cloudformation_json["Properties"].get("EnclaveOptions", {}).get("Enabled", False)).lower() == "true"
        instance.profile_name = cloudformation_json["Properties"].get("IamInstanceProfile")
        return instance

    return create


def _key_update(put_key_policy: PutKeyPolicy) -> Callable[..., Any]:
    """A key's new policy goes the way of KMS's API, where the key's old policy decides: a sealed key fails the stack."""

    def update(
        cls: Any, original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> Any:
        put_key_policy(original_resource.id, json.dumps(cloudformation_json["Properties"]["KeyPolicy"]))
        return original_resource

    return update


def _document_with_defaults(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any) -> Any:
        properties = cloudformation_json["Properties"]
        properties.setdefault("DocumentFormat", "JSON")
        properties.setdefault("DocumentType", "Command")
        if not isinstance(properties["Content"], str):
            properties["Content"] = json.dumps(properties["Content"])
        return original(cls, resource_name, cloudformation_json, account_id, region_name, **named)

    return create


def _key_of_its_kind(_: Any, /, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_named: Any) -> Any:
    """Moto's CloudFormation makes symmetric keys alone."""
    from moto.kms.models import kms_backends

    properties = cloudformation_json["Properties"]
    key = kms_backends[account_id][region_name].create_key(
        properties["KeyPolicy"],
        properties.get("KeyUsage", "ENCRYPT_DECRYPT"),
        properties.get("KeySpec", "SYMMETRIC_DEFAULT"),
        properties.get("Description"),
        properties.get("Tags", []),
    )
    key.key_rotation_status, key.enabled = properties.get("EnableKeyRotation", False), properties.get("Enabled", True)
    return key


def _inert(name: str) -> Any:
    """A type that exists and does nothing."""
    from moto.core.common_models import CloudFormationModel

    class Inert(CloudFormationModel):
        def __init__(self, physical_resource_id: str) -> None:
            self._id = physical_resource_id

        @property
        def physical_resource_id(self) -> str:
            return self._id

        @staticmethod
        def cloudformation_name_type() -> str:
            return ""

        @staticmethod
        def cloudformation_type() -> str:
            return name

        @classmethod
        def has_cfn_attr(cls, attr: str) -> bool:
            return attr == "Arn"

        def get_cfn_attribute(self, attribute_name: str) -> str:
            return f"arn:aws:local:::{self._id}"

        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any
        ) -> Any:
            return cls(resource_name)

        @classmethod
        def update_from_cloudformation_json(
            cls, original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
        ) -> Any:
            return original_resource

        @classmethod
        def delete_from_cloudformation_json(cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str) -> None:
            return None

    return Inert


def _targeted(target: Mapping[str, Any], account_id: str, region_name: str) -> list[str]:
    """Instance ids of an association's target: as they are, or by a tag."""
    from moto.ec2.models import ec2_backends

    kind, _, tag = str(target["Key"]).partition(":")
    if kind == "InstanceIds":
        return list(target["Values"])
    if kind != "tag":
        raise ValueError(f"the local association takes InstanceIds and tag:… alone, got {target['Key']}")
    wanted = {(tag, value) for value in target["Values"]}
    running = (one for one in ec2_backends[account_id][region_name].all_instances() if one.state == "running")
    return [one.id for one in running if wanted & {(pair["key"], pair["value"]) for pair in one.get_tags()}]


def _side_by_side(run: Callable[[str], Outcome], ids: Sequence[str]) -> dict[str, Outcome]:
    """What ``run`` gives for each id, some at once, in threads that hold up no exit: an executor's are waited for, and an interrupted demo would go on for as long as its scripts."""
    outcomes: dict[str, Outcome] = {}
    waiting = deque(ids)

    def work() -> None:
        while waiting:
            with suppress(IndexError):  # another thread was faster
                instance_id = waiting.popleft()
                outcomes[instance_id] = run(instance_id)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(ids)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {instance_id: outcomes[instance_id] for instance_id in ids}


def _association(systems_manager: SystemsManager) -> Any:
    base = _inert("AWS::SSM::Association")

    def associate(properties: Mapping[str, Any], account_id: str, region_name: str) -> None:
        parameters = {name: value if isinstance(value, list) else [value] for name, value in properties.get("Parameters", {}).items()}
        ids = [one for target in properties.get("Targets", []) for one in _targeted(target, account_id, region_name)]
        outcomes = _side_by_side(lambda instance_id: systems_manager.execute(properties["Name"], instance_id, parameters), ids)
        for instance_id, outcome in outcomes.items():
            if outcome.status != "Success" and properties.get("WaitForSuccessTimeoutSeconds"):
                cause = " ".join(outcome.stderr.split())[-700:]
                raise ValueError(f"association on {instance_id}: {outcome.status} in step {outcome.failed_step or 'start'}: {cause}")

    class Association(base):  # type: ignore[misc,valid-type]
        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any
        ) -> Any:
            associate(cloudformation_json["Properties"], account_id, region_name)
            return cls(resource_name)

        @classmethod
        def update_from_cloudformation_json(
            cls, original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
        ) -> Any:
            associate(cloudformation_json["Properties"], account_id, region_name)
            return original_resource

    return Association
