"""What runs on instances, wherever a template says it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from nitrokit.cdk.validation.model import App, Template, texts

_KINDS = (
    "AWS::SSM::Document", "AWS::SSM::Association", "AWS::SSM::MaintenanceWindowTask", "AWS::EC2::Instance", "AWS::EC2::LaunchTemplate", "AWS::AutoScaling::AutoScalingGroup",
    "AWS::ImageBuilder::Component",
)  # fmt: skip
_QUOTE = re.compile(r'\\+"')


def scripts(app: App) -> Iterator[tuple[Template, str, str]]:
    """(template, logical id, text): the texts of the properties and cfn-init's metadata. Quotes are bare, however often a shell or JSON has to escape them."""
    for template in app.templates:
        for logical_id, properties in template.of_type(*_KINDS):
            metadata = template.resources[logical_id].get("Metadata")
            init = metadata.get("AWS::CloudFormation::Init") if isinstance(metadata, dict) else None
            yield template, logical_id, _QUOTE.sub('"', texts(properties) + json.dumps(init))
