"""Programs that wheels name and installers write: each ``[console_scripts]`` line of entry_points.txt becomes a file of /usr/bin (PyPA specification "Entry points")."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Iterator

from nitrokit.image.cpio import file
from nitrokit.image.errors import ImageError
from nitrokit.image.unpack import Tree, add

_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
_OBJECT = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<object>(?P<first>\w+)[\w.]*)\s*(\[.*\])?", re.ASCII)
_SCRIPT = "#!/usr/bin/python3\nimport sys\nfrom {module} import {first}\nsys.exit({object}())\n"


def add_scripts(tree: Tree, site: str, excluded: Callable[[str], bool]) -> None:
    """Write the scripts of all wheels below ``site``; a file of a Debian package of that name stays. Raises ImageError."""
    listed = sorted(path for path in tree if path.startswith(f"{site}/") and path.endswith(".dist-info/entry_points.txt"))
    for path in listed:
        for name, script in _scripts(path, tree[path].data):
            target = f"usr/bin/{name}"
            if target not in tree and not excluded(target):
                add(tree, target, file(script.encode(), 0o755))


def _scripts(path: str, data: bytes) -> Iterator[tuple[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(data.decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ImageError("wheel", f"{path} is damaged", got=str(error)[:200]) from error
    for name, value in parser["console_scripts"].items() if "console_scripts" in parser else ():
        found = _OBJECT.fullmatch(value)
        if found is None or not _NAME.fullmatch(name):
            raise ImageError(
                "wheel", f"{path} names a program that nobody can run", got=f"{name} = {value}"[:200], expected="name = module:object"
            )
        yield name, _SCRIPT.format(**found.groupdict())
