"""Extended attributes of a layer's files: an initial ramdisk holds none. Each is told, or refused where the file would mean something else without it.

Names in tar archives: ``SCHILY.xattr.`` (GNU tar, Go's archive/tar, hence Docker, buildah, containerd), ``LIBARCHIVE.xattr.`` (bsdtar).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nitrokit.image.errors import ImageError

_PREFIXES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.")
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_TOLD_BY_NAME = {
    "security.capability": "its file capabilities",
    "system.posix_acl_access": "its access control list",
    "system.posix_acl_default": "its default access control list",
}


class LostAttributes:
    """Collects what files lose. What changes who may do what (capabilities, access control lists) is told by file, the rest (labels, users' notes) by number."""

    def __init__(self) -> None:
        self._by_name: list[str] = []
        self._others: dict[str, list[str]] = {}

    def look_at(self, path: str, headers: Mapping[str, str]) -> None:
        """``headers``: a member's pax headers. Raises ImageError for a file that is another one's shadow (overlayfs's marks of a folder that hides those below it, or is renamed)."""
        for header in headers:
            prefix = next((one for one in _PREFIXES if header.startswith(one)), None)
            if prefix is None:
                continue
            name = header.removeprefix(prefix)
            if name.startswith(_OVERLAY):
                raise ImageError(
                    "overlay", "a layer was packed from an overlay file system's inside", got=f"{path}: {name}",
                    expected="whiteouts as OCI layers have them", do="export the image by docker save, buildah push or skopeo copy",
                )  # fmt: skip
            if name in _TOLD_BY_NAME:
                self._by_name.append(f"{path} loses {_TOLD_BY_NAME[name]}: an initial ramdisk holds none")
            else:
                self._others.setdefault(name, []).append(path)

    def notes(self) -> Iterator[str]:
        yield from self._by_name
        for name, paths in sorted(self._others.items()):
            yield f"{len(paths)} files lose the attribute {name}, {paths[0]} first: an initial ramdisk holds none"
