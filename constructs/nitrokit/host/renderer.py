"""SSM documents from their templates; a name that a template uses and nobody gives is an error."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nitrokit.errors import UsageError

MAX_DOCUMENT = 64 * 1024
"""Bytes (Systems Manager User Guide "Systems Manager documents", limits)."""

_AGENT = "/opt/nitrokit/python3 /opt/nitrokit/agent.pyz"
# The S3 gateway endpoint leads to the instance's own region alone; the CLI asks us-east-1 when nobody names one.
_REGION = 'export AWS_DEFAULT_REGION="${AWS_REGION:-${AWS_SSM_REGION_NAME:?not run by the SSM Agent}}"'


@cache
def _environment() -> Environment:
    # JSON, not HTML: values go in through tojson.
    return Environment(
        loader=PackageLoader("nitrokit.host", "templates"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_document(template: str, **values: Any) -> dict[str, Any]:
    """Render ``templates/<template>`` and parse it. Raises UsageError for a document over 64 KB.

    Every step says ``onFailure: exit``: without it the SSM Agent goes on with the next step after one that failed
    (amazon-ssm-agent:agent/framework/runpluginutil/runpluginutil.go).
    """
    text = _environment().get_template(template).render(region=_REGION, agent=_AGENT, **values)
    if len(text.encode()) > MAX_DOCUMENT:
        raise UsageError(
            "document-size", "the SSM document is too large", got=f"{len(text.encode())} bytes", expected=f"at most {MAX_DOCUMENT}"
        )
    document: dict[str, Any] = json.loads(text)
    return document
