"""OCI images and root file systems as trees, and what is found wrong with them."""

import hashlib
import io
import json
import stat
import struct
import tarfile
from dataclasses import replace

import pytest

from nitrokit.core.boot import Process
from nitrokit.core.manifest import Dockerfile, Oci, Rootfs, parse_manifest
from nitrokit.image import cpio
from nitrokit.image.application import application
from nitrokit.image.content import Spool
from nitrokit.image.errors import FetchError, ImageError
from nitrokit.image.exclude import excluder
from nitrokit.image.lint import lint
from nitrokit.image.programs import find_command, require_runnable
from nitrokit.image.sources import Workshop
from nitrokit.image.sources.dockerfile import BUILDERS, commands, find_builder, unpinned
from nitrokit.image.sources.oci import read_oci
from nitrokit.image.sources.rootfs import read_rootfs
from nitrokit.image.users import find_user


@pytest.fixture
def shop(tmp_path):
    spool = Spool(tmp_path / "spool", limit=1 << 30)
    yield Workshop(tmp_path, "x86_64", tmp_path, tmp_path, spool, lambda _: None)
    spool.close()


def _tar(*members):
    """(name, content or None, options) each."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, options in members:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            for key, value in options.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


def _layout(folder, layers, config=None, architecture="amd64"):
    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (folder / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = {"config": blob(json.dumps({"config": config or {}}).encode()), "layers": [blob(layer) for layer in layers]}
    entry = {**blob(json.dumps(manifest).encode()), "platform": {"os": "linux", "architecture": architecture}}
    attestation = {**blob(b"{}"), "platform": {"os": "unknown", "architecture": "unknown"}}
    (folder / "index.json").write_text(json.dumps({"manifests": [entry, attestation]}))
    return entry["digest"]


LOWER = _tar(
    ("etc", None, {"type": tarfile.DIRTYPE, "mode": 0o755}), ("etc/old", b"1", {}), ("opt/a", b"a", {}), ("opt/b", b"b", {}), ("bin/tool", b"x" * 70000, {"mode": 0o4755, "uid": 7, "gid": 8}),
    ("bin/same", None, {"type": tarfile.LNKTYPE, "linkname": "bin/tool"}),
)  # fmt: skip
UPPER = _tar(("etc/.wh.old", b"", {}), ("opt/.wh..wh..opq", b"", {}), ("opt/c", b"c", {}))


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_layers_whiteouts_links_owners_and_configuration(shop, tmp_path, packing):
    import gzip

    import zstandard

    pack = {"plain": lambda data: data, "gzip": gzip.compress, "zstd": zstandard.compress}[packing]
    config = {"Entrypoint": ["/bin/tool"], "Cmd": ["-v"], "Env": ["A=b=c"], "WorkingDir": "/opt", "User": "7"}
    digest = _layout(tmp_path / "x", [pack(LOWER), pack(UPPER)], config)
    image = read_oci(Oci("x", digest=digest), shop)
    shop.spool.flush()
    assert {path for path, node in image.tree.items() if stat.S_ISREG(node.mode)} == {"opt/c", "bin/tool", "bin/same"}
    tool = image.tree["bin/tool"]
    assert (stat.S_IMODE(tool.mode), tool.uid, tool.gid, tool.data) == (0o755, 7, 8, b"x" * 70000)
    assert image.tree["bin/same"] is tool
    assert (image.config.entrypoint, image.config.command, dict(image.config.environment)) == (("/bin/tool",), ("-v",), {"A": "b=c"})
    assert image.notes == ("bin/tool loses its setuid or setgid bit: an enclave's app gains no privileges",)
    archive = cpio.write(image.tree)
    assert len(archive) < 2 * 70000, "hard links hold one content"
    assert dict(cpio.read(archive))["bin/same"].data == tool.data


def test_an_image_that_is_not_what_was_pinned_is_refused(shop, tmp_path):
    digest = _layout(tmp_path / "x", [LOWER])
    with pytest.raises(ImageError) as caught:
        read_oci(Oci("x", digest="sha256:" + "0" * 64), shop)
    assert caught.value.slug == "oci-digest"
    path = tmp_path / "x/blobs/sha256" / hashlib.sha256(LOWER).hexdigest()
    path.write_bytes(LOWER + b"\0")
    with pytest.raises(ImageError) as caught:
        read_oci(Oci("x", digest=digest), shop)
    assert caught.value.slug == "oci-digest"
    _layout(tmp_path / "y", [LOWER], architecture="arm64")
    with pytest.raises(ImageError) as caught:
        read_oci(Oci("y"), shop)
    assert caught.value.slug == "oci-choice"


@pytest.mark.parametrize(
    ("layer", "slug"),
    [
        (_tar(("../x", b"", {})), "path-escape"), (_tar(("dev/null", b"", {"type": tarfile.CHRTYPE})), "device-node"), (b"not a tar" * 100, "layer"), (LOWER[:1000], "layer"),
        (_tar(("a", None, {"type": tarfile.LNKTYPE, "linkname": "nowhere"})), "hard-link"), (_tar(("a", None, {"type": tarfile.SYMTYPE, "linkname": "../.."}), ("a/b", b"", {})), "path-escape"),
    ],
)  # fmt: skip
def test_what_an_enclave_cannot_have_is_refused(shop, tmp_path, layer, slug):
    (tmp_path / "r.tar").write_bytes(layer)
    with pytest.raises(ImageError) as caught:
        read_rootfs(Rootfs("r.tar"), shop)
    assert caught.value.slug == slug


def test_a_folder_is_taken_without_its_owners(shop, tmp_path):
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/x").write_bytes(b"x")
    (tmp_path / "root/bin/x").chmod(0o700)
    (tmp_path / "root/y").symlink_to("bin/x")
    tree = read_rootfs(Rootfs("root"), shop).tree
    assert {path: node.mode for path, node in tree.items()} == {"bin": 0o040755, "bin/x": 0o100755, "y": 0o120777}


def _elf(machine=62, loader=b""):
    head = bytearray(
        struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, machine, 1, 0, 64, 0, 0, 64, 56, 1 if loader else 0, 0, 0, 0)
    )
    return bytes(head) + (struct.pack("<IIQQQQQQ", 3, 0, 120, 0, 0, len(loader), 0, 0) + loader if loader else b"")


def test_what_the_kernel_could_not_start_is_told_with_the_reason():
    tree = {
        "app": cpio.file(_elf(loader=b"/lib/ld.so\0"), 0o755),
        "usr/bin/s": cpio.file(b"#! /usr/bin/env x\n", 0o755),
        "arm": cpio.file(_elf(183), 0o755),
        "x32": cpio.file(_elf()[:4] + b"\1" + _elf()[5:], 0o755),
        "chain": cpio.file(b"#!/usr/bin/s\n", 0o755),
        "nameless": cpio.file(b"#!\n", 0o755),
    }
    wrong = {
        "/app": "missing-interpreter",
        "/usr/bin/s": "missing-interpreter",
        "/chain": "missing-interpreter",
        "/nameless": "missing-interpreter",
    }
    for path, slug in {**wrong, "/arm": "architecture", "/x32": "architecture"}.items():
        with pytest.raises(ImageError) as caught:
            require_runnable(tree, path, "x86_64")
        assert caught.value.slug == slug
    require_runnable({**tree, "lib/ld.so": cpio.file(_elf(), 0o755)}, "/app", "x86_64")
    assert find_command(tree, "s", "/", {"PATH": "/bin:/usr/bin"}) == "/usr/bin/s"
    assert find_command(tree, "./app", "/", {}) == "/app"
    with pytest.raises(ImageError):
        find_command(tree, "missing", "/", {})


def test_users_are_the_images_own():
    tree = {"etc/passwd": cpio.file(b"app:x:7:8::/home/app:/bin/sh\n"), "etc/group": cpio.file(b"g:x:9:app\n")}
    assert (find_user(tree, "app").uid, find_user(tree, "app").gid, find_user(tree, "app").groups) == (7, 8, (9,))
    assert (find_user(tree, "7:g").gid, find_user(tree, "5").uid, find_user(tree, "").uid) == (9, 5, 0)
    assert find_user(tree, "app:9").groups == (), "a group that is named is the only one"
    for name in ("nobody", "app:wheel", str(1 << 31), "-1"):
        with pytest.raises(ImageError) as caught:
            find_user(tree, name)
        assert caught.value.code == "image/user"


def test_lints_name_what_should_not_be():
    tree = {
        "bin/sh": cpio.file(b"", 0o755),
        "usr/bin/apt": cpio.file(b"", 0o755),
        "app/key.pem": cpio.file(b"-----BEGIN " + b"PRIVATE KEY-----\n"),
    }
    process = Process(("/app/x",), "/", 0, 0, (), {"DB_PASSWORD": "x"}, False, "never", None)
    found = [(one.id, one.where) for one in lint(tree, process, "x", ["note"])]
    assert found == [
        ("credentials", "app/key.pem"), ("credentials", "environment variable DB_PASSWORD"), ("package-manager", "usr/bin/apt"), ("relative-command", "x"), ("root", "/app/x"),
        ("shell", "bin/sh"), ("source", "enclave.toml"),
    ]  # fmt: skip


def test_a_base_by_tag_is_told_and_the_builders_get_fixed_times(tmp_path):
    assert len(unpinned("FROM debian:12 AS build\nFROM build\nFROM scratch\nFROM x@sha256:00\n", "Dockerfile")) == 1
    for builder, word in (("docker", "SOURCE_DATE_EPOCH=0"), ("buildah", "--timestamp")):
        first = commands(builder, Dockerfile(), tmp_path / "Dockerfile", tmp_path, tmp_path / "x.tar", "arm64")[0]
        assert word in first
        assert "linux/arm64" in first


def test_a_builder_that_does_not_start_is_none_and_the_next_one_is_asked(tmp_path, monkeypatch):
    """As Docker's client without its engine, a program of another machine, a script whose interpreter is gone."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError) as caught:
        find_builder({})
    assert (caught.value.code, caught.value.got) == ("fetch/no-builder", "none of docker, buildah, podman, finch")
    for name, text in {"docker": "#!/bin/sh\nexit 1\n", "buildah": "#!/nowhere\n", "podman": "\0", "finch": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    assert find_builder({}) == "finch"
    for wanted in ("docker", "buildah", "podman", "kaniko", str(tmp_path / "podman"), "/"):
        with pytest.raises(FetchError) as caught:
            find_builder({"NITROKIT_CONTAINER_BUILDER": wanted})
        assert (caught.value.code, caught.value.got) == ("fetch/no-builder", wanted), "what was chosen is not replaced by another"


def test_a_builder_that_is_chosen_by_its_path_is_the_same_builder(tmp_path):
    for name in BUILDERS:
        by_name, by_path = (commands(one, Dockerfile(), tmp_path, tmp_path, tmp_path, "amd64") for one in (name, f"/opt/bin/{name}"))
        assert [[name, *command[1:]] for command in by_path] == by_name


def _made(shop, app, *links, files=("opt/tool",)):
    """Ramdisk 1 of a root file system with these files and (name, target) links, and its process."""
    laid = [(name, b"x", {"mode": 0o755}) for name in files]
    linked = [(name, None, {"type": tarfile.SYMTYPE, "linkname": target}) for name, target in links]
    (shop.folder / "r.tar").write_bytes(_tar(*laid, *linked))
    (shop.folder / "app").mkdir(exist_ok=True)
    (shop.folder / "app/main").touch()
    text = '[enclave]\nname = "x"\n[rootfs]\npath = "r.tar"\n[app]\ncommand = ["/opt/tool"]\n' + app
    return application(parse_manifest(text, path="enclave.toml"), shop)


SOURCE = 'source = "app"\n'


@pytest.mark.parametrize("source", ["", SOURCE])
@pytest.mark.parametrize("directory", ["/etc/passwd", "/etc/passwd/x/y", "/file", "/file/x"])
def test_a_working_directory_that_is_a_file_or_behind_one_is_refused_and_the_file_stays(shop, directory, source):
    with pytest.raises(ImageError) as caught:
        _made(shop, f'{source}working_directory = "{directory}"\n', ("file", "etc/passwd"), files=("opt/tool", "etc/passwd"))
    assert (caught.value.code, caught.value.got) == ("image/working-directory", directory)


@pytest.mark.parametrize("target", ["loop", "nowhere", "/nowhere/at/all"])
def test_a_working_directory_that_is_a_link_to_nowhere_is_refused(shop, target):
    """The app would not start, and nothing say so before."""
    with pytest.raises(ImageError) as caught:
        _made(shop, 'working_directory = "/loop"\n', ("loop", target))
    assert caught.value.code == "image/working-directory"


@pytest.mark.parametrize("source", ["", SOURCE])
def test_links_that_lead_round_in_a_circle_are_refused_on_the_way_to_the_working_directory(shop, source):
    with pytest.raises(ImageError) as caught:
        _made(shop, f'{source}working_directory = "/a/x"\n', ("a", "b"), ("b", "a"))
    assert caught.value.code == "image/link-loop"


@pytest.mark.parametrize("count", [39, 40, 41])
def test_as_many_links_are_followed_as_linux_follows(shop, count):
    links = [(f"l{number}", f"l{number + 1}") for number in range(count - 1)] + [(f"l{count - 1}", "opt")]
    made = [*links, ("opt/.keep", "tool")]
    if count > 40:
        with pytest.raises(ImageError) as caught:
            _made(shop, 'working_directory = "/l0/x"\n', *made)
        assert caught.value.code == "image/link-loop"
    else:
        assert "rootfs/opt/x" in _made(shop, 'working_directory = "/l0/x"\n', *made).tree


@pytest.mark.parametrize(
    ("configured", "directory"),
    [("/", "/"), ("//", "/"), ("//opt/.//w/", "/opt/w"), ("/w", "/w"), ("/link", "/link"), ("/link/w", "/link/w")],
)
@pytest.mark.parametrize("source", ["", SOURCE])
def test_the_working_directory_is_there_and_the_app_in_it(shop, configured, directory, source):
    made = _made(shop, f'{source}working_directory = "{configured}"\n', ("link", "opt"))
    assert made.process.working_directory == directory
    place = f"rootfs{directory}".replace("link", "opt").rstrip("/")
    assert stat.S_ISDIR(made.tree[place].mode)
    assert (f"{place}/main" in made.tree) == bool(source)
    assert not any(path.endswith("/") for path in made.tree)


def test_the_working_directory_of_an_image_may_be_relative_and_have_dots(shop, tmp_path):
    """Docker takes it from the root."""
    _layout(tmp_path / "x", [LOWER], {"Entrypoint": ["/bin/tool"], "WorkingDir": "srv/../w/."})
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main").touch()
    made = application(parse_manifest('[enclave]\nname = "x"\n[oci]\npath = "x"\n[app]\nsource = "app"\n', path="x"), shop)
    assert (made.process.working_directory, "rootfs/w/main" in made.tree) == ("/w", True)
    assert "rootfs/srv" not in made.tree


def test_an_opaque_whiteout_at_the_top_hides_all_below_it(shop, tmp_path):
    top = _tar((".wh..wh..opq", b"", {}), ("new", b"n", {}))
    _layout(tmp_path / "x", [LOWER, top])
    assert set(read_oci(Oci("x"), shop).tree) == {"new"}


def test_an_opaque_whiteout_hides_what_lies_below_its_layer_alone_wherever_it_stands_in_it(shop, tmp_path):
    """OCI image-spec layer.md, "Opaque Whiteout": an implementation may write it last."""
    top = _tar(("new", b"n", {}), (".wh..wh..opq", b"", {}))
    _layout(tmp_path / "x", [LOWER, top])
    assert set(read_oci(Oci("x"), shop).tree) == {"new"}


def test_exclude_takes_a_folder_with_all_below_it():
    excluded = excluder(("usr/share", "*.txt"))
    assert [excluded(path) for path in ("usr/share", "usr/share/x/y", "usr/shared", "a/b.txt", "a/b.txt/c")] == [
        True,
        True,
        False,
        True,
        True,
    ]


def test_exclude_leaves_no_empty_folders_but_those_that_were_meant(shop, tmp_path):
    folder = {"type": tarfile.DIRTYPE, "mode": 0o755}
    layer = _tar(
        ("usr", None, folder), ("usr/share", None, folder), ("usr/share/doc", None, folder), ("usr/share/doc/x", b"x", {"mode": 0o4755}), ("usr/bin", None, folder), ("usr/bin/a", b"a", {}),
        ("usr/bin/b", None, {"type": tarfile.LNKTYPE, "linkname": "usr/share/doc/x"}),
        ("var", None, folder), ("var/empty", None, folder), ("dev", None, folder), ("dev/null", None, {"type": tarfile.CHRTYPE}),
    )  # fmt: skip
    (tmp_path / "r.tar").write_bytes(layer)
    exclude = ("usr/share/doc/*", "dev/*")
    image = read_rootfs(Rootfs("r.tar", exclude=exclude), shop)
    assert set(image.tree) == {"usr", "usr/bin", "usr/bin/a", "usr/bin/b", "var", "var/empty", "dev"}
    shop.spool.flush()
    assert image.tree["usr/bin/b"].data == b"x", "a hard link keeps the content that its other name loses"
    assert not any("setuid" in note for note in image.notes)
    _layout(tmp_path / "x", [layer])
    assert set(read_oci(Oci("x", exclude=exclude), shop).tree) == set(image.tree)
    for path in ("root/usr/share/doc/x", "root/usr/bin/a", "root/var/empty/.keep"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "root/var/empty/.keep").unlink()
    assert set(read_rootfs(Rootfs("root", exclude=exclude), shop).tree) == {"usr", "usr/bin", "usr/bin/a", "var", "var/empty"}


def test_extended_attributes_are_told_or_refused_by_the_files_name(shop, tmp_path):
    def with_attributes(*names):
        return {"pax_headers": {name: "x" for name in names}}

    layer = _tar(
        ("ping", b"", with_attributes("SCHILY.xattr.security.capability")), ("shared", b"", with_attributes("SCHILY.xattr.system.posix_acl_access")),
        ("a", b"", with_attributes("SCHILY.xattr.security.selinux")), ("b", b"", with_attributes("LIBARCHIVE.xattr.security.selinux")), ("hidden", b"", with_attributes("SCHILY.xattr.user.x")),
    )  # fmt: skip
    (tmp_path / "r.tar").write_bytes(layer)
    notes = read_rootfs(Rootfs("r.tar", sha256=hashlib.sha256(layer).hexdigest(), exclude=("hidden",)), shop).notes
    assert [note.split(":")[0] for note in notes] == [
        "ping loses its file capabilities", "shared loses its access control list", "2 files lose the attribute security.selinux, a first",
    ]  # fmt: skip
    (tmp_path / "r.tar").write_bytes(
        _tar(("etc", None, {"type": tarfile.DIRTYPE, **with_attributes("SCHILY.xattr.trusted.overlay.opaque")}))
    )
    with pytest.raises(ImageError) as caught:
        read_rootfs(Rootfs("r.tar"), shop)
    assert (caught.value.slug, "etc" in str(caught.value.got)) == ("overlay", True)


@pytest.mark.parametrize(
    "index",
    [
        {"manifests": [{"digest": "sha256:00", "platform": "linux", "annotations": ["x"]}]}, {"manifests": [{"platform": {"os": 1, "architecture": None}}]}, {"manifests": [1]}, {"manifests": {}}, {},
        {"manifests": [{"annotations": {"org.opencontainers.image.ref.name": 7}}, {}]},
    ],
)  # fmt: skip
def test_an_index_of_another_shape_is_our_error(shop, tmp_path, index):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/index.json").write_text(json.dumps(index))
    with pytest.raises(ImageError):
        read_oci(Oci("x", reference="y"), shop)
    with pytest.raises(ImageError):
        read_oci(Oci("x"), shop)


@pytest.mark.parametrize("config", [{"Cmd": "sh"}, {"Entrypoint": {"a": 1}}, {"Env": ["A"]}, {"Env": {"A": "b"}}, {"User": 7}, [1]])
def test_a_configuration_of_another_shape_is_our_error(shop, tmp_path, config):
    _layout(tmp_path / "x", [LOWER], config)
    with pytest.raises(ImageError) as caught:
        read_oci(Oci("x"), shop)
    assert caught.value.slug == "oci"


def test_an_archive_that_is_cut_off_is_our_error(shop, tmp_path):
    _layout(tmp_path / "x", [LOWER])
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x", arcname=".")
    whole = (tmp_path / "x.tar").read_bytes()
    for length in (0, 100, len(whole) // 3, len(whole) // 2, len(whole) - 12_000):
        (tmp_path / "x.tar").write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_oci(Oci("x.tar"), shop)


def test_a_multi_architecture_index_gives_the_one_that_is_wanted(shop, tmp_path):
    """Nested, as `docker buildx` writes it: index.json names one index, which names a manifest for each architecture."""
    layouts = {name: _layout(tmp_path / "x", [_tar((name, b"", {}))], architecture=name) for name in ("amd64", "arm64")}
    inner = {"manifests": [{"digest": digest, "platform": {"os": "linux", "architecture": name}} for name, digest in layouts.items()]}
    data = json.dumps(inner).encode()
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "x/blobs/sha256" / digest).write_bytes(data)
    entry = {"digest": f"sha256:{digest}", "mediaType": "application/vnd.oci.image.index.v1+json"}
    (tmp_path / "x/index.json").write_text(json.dumps({"manifests": [entry]}))
    for arch, name in (("x86_64", "amd64"), ("aarch64", "arm64")):
        assert set(read_oci(Oci("x", digest=f"sha256:{digest}"), replace(shop, arch=arch)).tree) == {name}
        assert set(read_oci(Oci("x", digest=layouts[name]), replace(shop, arch=arch)).tree) == {name}
