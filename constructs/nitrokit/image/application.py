"""Ramdisk 1: the app's root file system below ``rootfs/`` and, beside it, what init is to run. It replaces nothing of ramdisk 0, whose name is PCR1."""

from __future__ import annotations

import posixpath
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from nitrokit.core import boot
from nitrokit.core.manifest import App, Dockerfile, EifFile, Manifest, Oci, Packages, Rootfs
from nitrokit.image import aws_init
from nitrokit.image.content import Stored
from nitrokit.image.contents import Installed, installed
from nitrokit.image.cpio import Node, file, folder
from nitrokit.image.errors import ImageError
from nitrokit.image.exclude import without_empty_folders
from nitrokit.image.files import walk
from nitrokit.image.lint import Finding, lint
from nitrokit.image.programs import DEFAULT_PATH, find_command, look_up, require_runnable
from nitrokit.image.sources import ImageConfig, SourceImage, Workshop
from nitrokit.image.sources.dockerfile import read_dockerfile
from nitrokit.image.sources.oci import read_oci
from nitrokit.image.sources.packages import read_packages
from nitrokit.image.sources.rootfs import read_rootfs
from nitrokit.image.unpack import Tree, add, add_mount_points
from nitrokit.image.users import find_user

_OVERLAID = ("etc/hosts", "etc/resolv.conf")


@dataclass(frozen=True)
class Application:
    """Ramdisk 1 as a tree, and what people should know of it."""

    tree: Tree
    process: boot.Process
    findings: tuple[Finding, ...]
    installed: tuple[Installed, ...]


def application(manifest: Manifest, shop: Workshop) -> Application:
    """Raises ImageError, LockError, FetchError."""
    source = _read(manifest, shop)
    root = dict(source.tree)
    directory = _directory(manifest.app.working_directory or source.config.working_directory)
    _check_way(root, directory)
    if manifest.app.source is not None:
        _add_app(shop.folder / manifest.app.source, directory, root)
    if manifest.init == "nitrokit":
        _finish(root)
    aws = manifest.init == "aws"
    process, original = _process(root, replace(source.config, user="") if aws else source.config, manifest.app, directory)
    require_runnable(root, process.command[0], manifest.arch)
    shop.spool.flush()
    notes = [*source.notes, *(aws_init.ignored(source.config) if aws else ())]
    findings = lint(root, process, original, notes)
    tree = aws_init.application(root, process) if aws else _ramdisk(manifest, process, root)
    return Application(tree, process, tuple(findings), tuple(installed(root)))


def _ramdisk(manifest: Manifest, process: boot.Process, root: Tree) -> Tree:
    config = boot.Boot(
        process, [(one.host, one.port, one.vsock_port) for one in manifest.egress], [(one.port, one.vsock_port) for one in manifest.ingress]
    )
    return {boot.PATH: file(boot.encode(config)), boot.ROOT: folder(), **{f"{boot.ROOT}/{path}": node for path, node in root.items()}}


def _read(manifest: Manifest, shop: Workshop) -> SourceImage:
    match manifest.source:
        case Packages():
            return read_packages(manifest.source, manifest.app, shop)
        case Oci():
            return read_oci(manifest.source, shop)
        case Rootfs():
            return read_rootfs(manifest.source, shop)
        case Dockerfile():
            return read_dockerfile(manifest.source, shop)
        case EifFile():
            raise ImageError("eif", "an EIF that was built elsewhere is measured, not built", got=manifest.source.path)


def _finish(root: Tree) -> None:
    """What every root file system has: places to mount on, and files that init writes for the allowed destinations (Docker lays its own over these two as well)."""
    add_mount_points(root)
    for path in _OVERLAID:
        root.pop(path, None)
        add(root, path, file(b""))


def _process(root: Tree, config: ImageConfig, app: App, directory: str) -> tuple[boot.Process, str]:
    """ENTRYPOINT and CMD joined, WORKDIR, USER and ENV as Docker has them; enclave.toml replaces each, but adds to the environment. Also: the command as it was written."""
    command = app.command or (*config.entrypoint, *config.command)
    if not command:
        raise ImageError(
            "no-command", "nothing says what the enclave is to run", expected="command in [app], or ENTRYPOINT or CMD of the image"
        )
    user = find_user(root, app.user if app.user is not None else config.user)
    environment = {"PATH": DEFAULT_PATH, "HOME": user.home, **config.environment, **app.environment}
    _make_folder(root, directory)
    program = find_command(root, command[0], directory, environment)
    process = boot.Process(
        command=(program, *command[1:]),
        working_directory=directory,
        uid=user.uid,
        gid=user.gid,
        groups=user.groups,
        environment=environment,
        logs=app.logs,
        restart=app.restart,
        ready_port=app.ready_port,
    )
    return process, command[0]


def _directory(configured: str | None) -> str:
    """The working directory, an absolute path: an image's may be anything."""
    return "/" + posixpath.normpath(posixpath.join("/", configured or "")).lstrip("/")


def _check_way(root: Tree, directory: str) -> None:
    """What is there of the way to the working directory is folders, or links to some: no file gives way to a folder. Raises ImageError."""
    for path in (directory, *map(str, PurePosixPath(directory).parents)):
        node = look_up(root, path)
        if node is not None and not stat.S_ISDIR(node.mode):
            raise _no_folder(directory)


def _make_folder(root: Tree, directory: str) -> None:
    """The working directory, where the image has none: one that is there, perhaps behind a link, keeps its owner and mode. Raises ImageError for a link to nowhere."""
    if directory == "/":
        return
    if look_up(root, directory) is None:
        add(root, directory.lstrip("/"), folder())
    if look_up(root, directory) is None:
        raise _no_folder(directory)


def _no_folder(directory: str) -> ImageError:
    return ImageError(
        "working-directory", "the working directory is no folder", got=directory, do="correct working_directory in [app], or WORKDIR"
    )


def _add_app(source: Path, directory: str, tree: Tree) -> None:
    """Copy the app; owners, times and all modes but the executable bit come from here, not from the file system.

    Folders without files stay out: version control keeps none, so another checkout lacks them.
    """
    if not source.is_dir():
        raise ImageError(
            "no-app", "the app's folder is missing", got=str(source), expected="the folder named by app.source in enclave.toml"
        )
    base = directory.strip("/")
    if base:
        add(tree, base, folder())
    try:
        nodes = {name: _app_node(path) for name, path in walk(source) if "__pycache__" not in name.split("/")}
    except OSError as error:
        raise ImageError(
            "app-unreadable", f"cannot read {error.filename}", got=str(error), expected="files that this user may read"
        ) from error
    for name, node in without_empty_folders(nodes).items():
        add(tree, f"{base}/{name}".lstrip("/"), node)


def _app_node(path: Path) -> Node:
    if path.is_symlink():
        raise ImageError(
            "app-link",
            "the app's folder has a symbolic link",
            got=str(path),
            do="copy the file itself: what lies behind a link is not pinned",
        )
    if path.is_dir():
        return folder()
    if not path.is_file():
        raise ImageError("device-node", "the app's folder has something that is neither file nor folder", got=str(path))
    status = path.stat()
    return file(Stored(path, 0, status.st_size), 0o755 if status.st_mode & 0o100 else 0o644)
