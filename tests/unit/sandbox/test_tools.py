"""Pinned programs: what the pins say, what comes out of a tarball, and which file in the cache is one of them."""

import base64
import datetime
import gzip
import hashlib
import io
import os
import pathlib
import re
import tarfile

import msgspec
import pytest

from smcp.kernel import errors
from smcp.sandbox import tools
from smcp.sandbox.tools import kept, pins, unpack
from support import registry

_CONTENT = b"\x7fELF a program" * 1000
_MEMBER = "package/bin/tiny"
_FILES = {"package.json": "{}", "bin/tiny": _CONTENT, "README.md": "x"}


def _build(data: bytes, content: bytes = _CONTENT) -> pins.Build:
    return pins.Build(
        package="@s/tiny",
        member=_MEMBER,
        sha512=base64.b64encode(hashlib.sha512(data).digest()).decode(),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


def _link(kind: bytes, name: str = _MEMBER, target: str = "/etc/passwd") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def _take(data: bytes, folder: pathlib.Path, wanted: pins.Build | None = None) -> pathlib.Path:
    (folder / "x.tgz").write_bytes(data)
    into = folder / "program"
    unpack.take(folder / "x.tgz", wanted or _build(data), into)
    return into


@pytest.mark.requirement("workers:tools:pins")
def test_every_pin_is_complete_and_names_no_address() -> None:
    for program in tools.PROGRAMS:
        assert set(program.builds) == {"x86_64", "aarch64"}
        for build in program.builds.values():
            assert re.fullmatch(r"@[a-z]+/[a-z0-9-]+", build.package)
            assert len(base64.b64decode(build.sha512, validate=True)) == 64
            assert len(bytes.fromhex(build.sha256)) == 32
            assert build.member == f"package/bin/{program.name}"
    day = tools.WORKERD.version.split(".")[1]
    assert tools.WORKERD.released == datetime.datetime.strptime(day, "%Y%m%d").replace(tzinfo=datetime.UTC).date()


@pytest.mark.requirement("workers:tools:one-file")
def test_only_the_program_comes_out_of_a_tarball(tmp_path: pathlib.Path) -> None:
    into = _take(registry.tarball(_FILES), tmp_path)
    assert into.read_bytes() == _CONTENT
    assert into.stat().st_mode & 0o7777 == 0o555
    assert {one.name for one in tmp_path.iterdir()} == {"x.tgz", "program"}


@pytest.mark.requirement("workers:tools:verified")
def test_a_tarball_with_one_other_byte_is_not_read(tmp_path: pathlib.Path) -> None:
    data = registry.tarball(_FILES)
    with pytest.raises(unpack.Refused, match="SHA-512"):
        _take(data + b"\0", tmp_path, _build(data))
    with pytest.raises(unpack.Refused, match="SHA-512"):
        _take(b"", tmp_path, _build(data))
    assert not (tmp_path / "program").exists()


@pytest.mark.requirement("workers:tools:verified")
def test_a_tarball_that_is_a_link_or_a_fifo_is_not_opened(tmp_path: pathlib.Path) -> None:
    data = registry.tarball(_FILES)
    (tmp_path / "real").write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="symbolic"):
        unpack.take(tmp_path / "link", _build(data), tmp_path / "program")
    with pytest.raises(unpack.Refused, match="not a file"):
        unpack.take(tmp_path / "fifo", _build(data), tmp_path / "program")


@pytest.mark.requirement("workers:tools:hostile")
@pytest.mark.parametrize(
    ("files", "more", "why"),
    [
        ({}, [_link(tarfile.SYMTYPE)], "not a plain file"),
        ({}, [_link(tarfile.LNKTYPE)], "not a plain file"),
        ({}, [_link(tarfile.CHRTYPE)], "not a plain file"),
        ({}, [_link(tarfile.FIFOTYPE)], "not a plain file"),
        ({}, [_link(tarfile.DIRTYPE)], "not a plain file"),
        # The first of the name counts: a link in front of the program is no way around.
        ({}, [_link(tarfile.SYMTYPE), _link(tarfile.REGTYPE)], "not a plain file"),
        ({"bin/other": _CONTENT}, [], "has no package/bin/tiny"),
        ({"../bin/tiny": _CONTENT}, [], "has no package/bin/tiny"),
        ({"bin/tiny": b""}, [], "of 0 bytes"),
        ({"bin/tiny": _CONTENT + b"x"}, [], "bytes, not"),
        ({"bin/tiny": b"x" * len(_CONTENT)}, [], "SHA-256"),
        ({"zeros": b"\0" * 20_000_000, "bin/tiny": _CONTENT}, [], "unpacks to more"),
    ],
)
def test_a_hostile_tarball_is_refused_though_its_digest_is_pinned(
    files: dict[str, bytes], more: list[tarfile.TarInfo], why: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(unpack.Refused, match=why):
        _take(registry.tarball(files, *more), tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"x.tgz"}


@pytest.mark.requirement("workers:tools:hostile")
def test_a_broken_or_endless_archive_is_refused(tmp_path: pathlib.Path) -> None:
    whole = registry.tarball(_FILES)
    raw = gzip.decompress(whole)
    endless = tarfile.TarInfo("package/x")
    endless.type, endless.size = tarfile.XHDTYPE, 50_000_000
    chained = tarfile.TarInfo("package/x")
    chained.type, chained.size = tarfile.XHDTYPE, 0
    for data in (
        b"not gzip",
        whole[: len(whole) // 2],
        gzip.compress(b"not tar" * 1000),
        gzip.compress(raw[:700]),
        # An extended header is read into memory as a whole.
        gzip.compress(endless.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 50_000_000),
        gzip.compress(chained.tobuf(tarfile.USTAR_FORMAT) * 15_000),
    ):
        with pytest.raises(unpack.Refused):
            _take(data, tmp_path)
        assert not (tmp_path / "program").exists()


@pytest.mark.requirement("workers:tools:one-file")
def test_a_file_that_is_there_already_is_not_written_through(tmp_path: pathlib.Path) -> None:
    (tmp_path / "program").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        unpack.extract(io.BytesIO(b""), _build(b""), tmp_path / "program")
    assert (tmp_path / "program").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.requirement("workers:tools:cache")
def test_only_the_very_file_is_taken_from_the_cache(tmp_path: pathlib.Path) -> None:
    wanted = _build(b"")
    path = tmp_path / "tiny"
    path.write_bytes(_CONTENT)
    assert not kept.same(path, wanted)  # it can be written to
    path.chmod(0o555)
    assert kept.same(path, wanted)
    path.chmod(0o755)
    assert not kept.same(path, wanted)
    path.write_bytes(b"\0" + _CONTENT[1:])
    path.chmod(0o555)
    assert not kept.same(path, wanted)  # one other byte
    assert not kept.same(path, msgspec.structs.replace(wanted, size=1))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        kept.same(tmp_path / "link", wanted)
    os.mkfifo(tmp_path / "fifo")
    assert not kept.same(tmp_path / "fifo", wanted)
    with pytest.raises(IsADirectoryError):
        kept.same(tmp_path, wanted)


@pytest.mark.requirement("workers:tools:cache")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_taken(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tiny"
    path.write_bytes(_CONTENT)
    path.chmod(0o555)
    os.chown(path, 65534, 65534)
    assert not kept.same(path, _build(b""))


@pytest.mark.requirement("workers:tools:cache")
def test_the_cache_is_where_the_user_keeps_caches() -> None:
    assert kept.home({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == pathlib.Path("/c/smcp/tools")
    assert kept.home({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == pathlib.Path("/h/.cache/smcp/tools")
    assert kept.place(tools.ESBUILD, {"HOME": "/h"}).parts[-2:] == (tools.ESBUILD.label, "esbuild")
    with pytest.raises(errors.SandboxMissing, match="XDG_CACHE_HOME"):
        kept.home({"HOME": "relative"})


@pytest.mark.requirement("workers:tools:cache")
def test_a_cell_sees_one_file() -> None:
    found = tools.Tool(name="workerd", version="1.2", path="/somewhere/workerd")
    assert (found.label, found.executable) == ("workerd-1.2", "/opt/workerd")
    assert tools.Tools(workerd=found).binds == (found.bind,)
    assert (found.bind.source, found.bind.target, found.bind.writable) == (found.path, "/opt/workerd", False)


@pytest.mark.requirement("workers:tools:errors")
def test_a_machine_of_another_kind_is_told_so() -> None:
    with pytest.raises(errors.SandboxMissing, match="no workerd for riscv64 machines, only for aarch64 and x86_64"):
        tools.build(tools.WORKERD, "riscv64")
    assert "smcp doctor" in tools.missing(tools.WORKERD).public
