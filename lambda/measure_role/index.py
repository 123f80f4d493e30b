"""PCR3 of a role whose ARN is known at deployment alone: SHA384(48 zero bytes ‖ ARN). Runs inline, beside the cfnresponse that CloudFormation puts there."""

import hashlib
import re

import cfnresponse


def handler(event: dict, context: object) -> None:  # type: ignore[type-arg]
    arn = event["ResourceProperties"]["RoleArn"]
    plain = re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@-]+", arn)  # AWS documents nothing about a path in PCR3
    status = "SUCCESS" if plain or event["RequestType"] == "Delete" else "FAILED"
    digest = hashlib.sha384(bytes(48) + arn.encode()).hexdigest()
    cfnresponse.send(event, context, status, {"Pcr3": digest}, arn, reason=None if plain else f"not a role without a path: {arn}")
