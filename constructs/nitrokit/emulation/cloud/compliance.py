"""PutComplianceItems and ListComplianceItems, which moto does not have (Systems Manager API Reference)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nitrokit.emulation.cloud import patching


def install() -> Callable[[], None]:
    """Put them into moto; returns what takes them out again, with all that was reported."""
    from moto.core.responses import ActionResult, EmptyResult
    from moto.ssm.responses import SimpleSystemManagerResponse

    items: dict[tuple[str, str, str], dict[str, Any]] = {}

    def put_compliance_items(response: Any) -> Any:
        """UploadType PARTIAL keeps what else the resource reported; COMPLETE, the default, replaces it."""
        request = json.loads(response.body)
        resource, kind = request["ResourceId"], request["ComplianceType"]
        if request.get("UploadType", "COMPLETE") == "COMPLETE":
            for other in [one for one in items if one[:2] == (resource, kind)]:
                del items[other]
        for item in request["Items"]:
            common = {"ResourceId": resource, "ResourceType": request["ResourceType"], "ComplianceType": kind}
            items[resource, kind, item["Id"]] = {**common, **item, "ExecutionSummary": request["ExecutionSummary"]}
        return EmptyResult()

    def list_compliance_items(response: Any) -> Any:
        wanted = json.loads(response.body).get("ResourceIds", [])
        return ActionResult({"ComplianceItems": [one for one in items.values() if not wanted or one["ResourceId"] in wanted]})

    return patching.put(SimpleSystemManagerResponse, put_compliance_items=put_compliance_items, list_compliance_items=list_compliance_items)
