"""The table of instance types comes from EC2's own description, by the documented command."""

import gzip
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from nitrokit.cdk import instance_types

TABLE = Path(instance_types.__file__).with_suffix(".json")


def _refresh(text, *arguments):
    command = [sys.executable, "-m", "nitrokit.cdk.instance_types", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_the_packaged_table_is_what_the_command_makes_of_the_capture():
    capture = json.loads(gzip.decompress(files("moto.ec2.resources").joinpath("instance_types.json.gz").read_bytes()))
    done = _refresh(json.dumps({"InstanceTypes": list(capture.values())}), json.loads(TABLE.read_text())["source"])
    assert done.stdout == TABLE.read_text()
    assert len(instance_types.catalogue().types) == sum(one["NitroEnclavesSupport"] == "supported" for one in capture.values()) == 946


def test_something_else_is_one_line_and_no_traceback():
    for text in ("", "[]", '{"InstanceTypes": [{}]}'):
        done = _refresh(text)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
