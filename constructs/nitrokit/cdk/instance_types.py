"""The packaged table of instance types, and its refresh: ``aws ec2 describe-instance-types --output json | python -m nitrokit.cdk.instance_types > new.json``."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from nitrokit.core.sizing import Catalogue, SizingError, catalogue_from_ec2, parse_catalogue


@cache
def catalogue() -> Catalogue:
    """The types that supported Nitro Enclaves when the table was read (its ``source``)."""
    return parse_catalogue(Path(__file__).with_suffix(".json").read_text())


def main() -> None:
    """DescribeInstanceTypes' JSON on stdin, the table on stdout. An argument, if any, is the source to note."""
    try:
        described = json.load(sys.stdin)
        source = sys.argv[1] if len(sys.argv) > 1 else f"EC2 DescribeInstanceTypes, {datetime.now(UTC):%Y-%m-%d}"
        sys.stdout.write(catalogue_from_ec2(described["InstanceTypes"], source).to_json())
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: not what `aws ec2 describe-instance-types --output json` prints: {error!r}")
    except SizingError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
