"""Packages as files: what of them is unpacked, and every trick that is not."""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile
from base64 import b64encode

import pytest

from smcp.deploy import tarballs
from support import registry


def _entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, size
    return entry


def _unpack(data: bytes, into: pathlib.Path, max_bytes: int = 1_000_000, max_files: int = 100) -> list[str]:
    return tarballs.unpack(io.BytesIO(data), str(into), tarballs.Room(max_bytes, max_files))["hooks"]


@pytest.mark.requirement("deploy:npm:unpacked")
def test_files_come_without_their_first_folder_whatever_it_is_called(tmp_path: pathlib.Path) -> None:
    run = _entry("package/bin/run", size=0)
    run.mode = 0o4755
    _unpack(registry.tarball({"package.json": "{}", "lib/a.js": "1"}, run), tmp_path / "a")
    assert (tmp_path / "a/lib/a.js").read_text("utf-8") == "1"
    assert (tmp_path / "a/lib/a.js").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "a/bin/run").stat().st_mode & 0o7777 == 0o755  # runs, and as nobody else
    _unpack(registry.tarball({"x": "2"}, root="./other"), tmp_path / "b")
    assert (tmp_path / "b/x").read_text("utf-8") == "2"


@pytest.mark.requirement("deploy:npm:refused")
@pytest.mark.parametrize(
    "entry",
    [
        _entry("package/x", tarfile.SYMTYPE, "/etc/passwd"),
        _entry("package/x", tarfile.SYMTYPE, "inside"),
        _entry("package/x", tarfile.LNKTYPE, "package/package.json"),
        _entry("package/x", tarfile.LNKTYPE, "/etc/shadow"),
        _entry("package/x", tarfile.CHRTYPE),
        _entry("package/x", tarfile.BLKTYPE),
        _entry("package/x", tarfile.FIFOTYPE),
        _entry("package/x", tarfile.CONTTYPE),
        _entry("/etc/x"),
        _entry("../x"),
        _entry("package/../../x"),
        _entry("package/../x"),
        _entry("package/./x"),
        _entry("package//x"),
        _entry("package/a\\..\\x"),
        _entry("package/a\nb"),
        _entry("package"),
        _entry("package/" + "x/" * 600 + "y"),
    ],
    ids=lambda entry: f"{entry.type.decode()}-{entry.name[:20]!r}",
)
def test_an_entry_that_is_no_plain_file_below_its_package_is_refused(
    entry: tarfile.TarInfo, tmp_path: pathlib.Path
) -> None:
    root = tmp_path / "root"
    try:
        _unpack(registry.tarball({"package.json": "{}"}, entry), root / "package")
    except tarballs.Refused:
        pass
    else:
        assert entry.type == tarfile.CONTTYPE  # "contiguous" is a plain file by another name (POSIX.1 pax)
    assert {path.name for path in tmp_path.iterdir()} <= {"root"}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


@pytest.mark.requirement("deploy:npm:refused")
def test_one_name_for_a_file_and_a_directory_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tarballs.Refused):
        _unpack(registry.tarball({"a": "1", "a/b": "2"}), tmp_path / "x")
    with pytest.raises(tarballs.Refused):
        _unpack(registry.tarball({"a/b": "1", "a": "2"}), tmp_path / "y")


@pytest.mark.requirement("deploy:npm:unpacked")
def test_of_two_files_of_one_name_the_last_one_counts(tmp_path: pathlib.Path) -> None:
    second = io.BytesIO()
    with tarfile.open(fileobj=second, mode="w") as archive:
        for content in (b"first and longer", b"second"):
            archive.addfile(_entry("package/a", size=len(content)), io.BytesIO(content))
    _unpack(gzip.compress(second.getvalue()), tmp_path / "x")
    assert (tmp_path / "x/a").read_bytes() == b"second"


@pytest.mark.requirement("deploy:npm:bombs")
def test_a_bomb_ends_at_the_limit_before_it_is_written(tmp_path: pathlib.Path) -> None:
    bomb = registry.tarball({"small": "1", "zeros": b"\0" * 50_000_000})
    assert len(bomb) < 100_000
    with pytest.raises(tarballs.Refused, match=r"deploy\.max_bytes"):
        _unpack(bomb, tmp_path / "x")
    assert sum(path.stat().st_size for path in (tmp_path / "x").iterdir()) <= 1_000_000


@pytest.mark.requirement("deploy:npm:bombs")
def test_many_files_and_endless_headers_end_too(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tarballs.Refused, match="more files"):
        _unpack(registry.tarball({f"f{number}": "" for number in range(101)}), tmp_path / "x")
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        header = _entry("package/h", kind, size=2**40).tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(tarballs.Refused, match="endless"):
            _unpack(gzip.compress(header + b"\0" * 1024), tmp_path / kind.hex())


@pytest.mark.requirement("deploy:npm:refused")
@pytest.mark.parametrize(
    "data",
    [b"", b"PK\3\4", gzip.compress(b"x" * 512), registry.tarball({"a": "b" * 9999})[:60]],
    ids=range(4),  # they hold the time; every worker must name the tests alike
)
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(tarballs.Refused):
        _unpack(data, tmp_path / "x")


@pytest.mark.requirement("deploy:npm:scripts")
@pytest.mark.parametrize(
    ("package", "more", "hooks"),
    [
        ({"scripts": {"postinstall": "x", "test": "y"}}, {}, ["postinstall"]),
        ({"scripts": {"preinstall": "x", "install": "y"}}, {}, ["install", "preinstall"]),
        ({}, {"binding.gyp": "{}"}, ["binding.gyp"]),
        ({"scripts": {"prepare": "x"}}, {"sub/binding.gyp": "{}"}, []),
        ({"scripts": "postinstall"}, {}, []),
        ([], {}, []),
    ],
)
def test_what_would_run_at_installation_is_told_from_the_files(
    package: object, more: dict[str, str], hooks: list[str], tmp_path: pathlib.Path
) -> None:
    assert _unpack(registry.tarball({"package.json": json.dumps(package), **more}), tmp_path / "x") == hooks


@pytest.mark.requirement("deploy:npm:unpacked")
def test_a_file_is_unpacked_only_when_it_is_the_one_of_its_digest(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = registry.tarball({"a": "1"})
    (tmp_path / "file").write_bytes(data)
    package = {"file": str(tmp_path / "file"), "path": "node_modules/x", "label": "x@1.0.0"}
    plan = {"max_bytes": 10, "max_files": 10, "packages": [package]}
    for sha512, code in ((b64encode(hashlib.sha512(data).digest()), 0), (b64encode(bytes(64)), tarballs.REFUSED)):
        package["sha512"] = sha512.decode()
        (tmp_path / "plan").write_text(json.dumps(plan), "utf-8")
        assert tarballs.main(str(tmp_path / "plan"), str(tmp_path / f"root{code}")) == code
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["sha256"] == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "root0/node_modules/x/a").read_text("utf-8") == "1"
    assert second["refused"].startswith("x@1.0.0 is not the file")
    assert not (tmp_path / f"root{tarballs.REFUSED}").exists()
