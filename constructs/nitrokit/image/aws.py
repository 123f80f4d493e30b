"""boto3's clients for the command line: what keeps one from being made is told as what to mend."""

from __future__ import annotations

import os
from typing import Any

from nitrokit.errors import EnvironmentProblem


def client(service: str, region: str | None, config: Any = None) -> Any:
    """``region`` None: AWS_REGION's, which boto3 does not read, else that of the AWS configuration. ``config``: a botocore.config.Config. Raises EnvironmentProblem."""
    import boto3
    from botocore.exceptions import BotoCoreError, InvalidRegionError, NoRegionError

    try:
        return boto3.client(service, region_name=region or os.environ.get("AWS_REGION"), config=config)
    except (NoRegionError, InvalidRegionError) as error:
        raise EnvironmentProblem(
            "aws-client", "AWS cannot be asked", got=str(error), do="name the Region with --region, or set AWS_REGION"
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise EnvironmentProblem(
            "aws-client",
            "AWS cannot be asked",
            got=str(error),
            do="check AWS_PROFILE, AWS_ENDPOINT_URL, the Region (--region) and the AWS configuration files",
        ) from error
