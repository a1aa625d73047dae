"""Artefacts' archives: canonical on the way in, suspicious on the way out."""

import gc
import io
import os
import pathlib
import resource
import tarfile

import pytest

from smcp.deploy import archive
from smcp.kernel import errors

_MOST = 1_000_000


def _tree(root: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "run").write_text("#!")
    (root / "run").chmod(0o700)
    (root / "link").symlink_to("/opt/python/bin/python3")
    return root


def _tar(*entries: tarfile.TarInfo) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    made.seek(0)
    return made


def _entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, size
    return entry


@pytest.mark.requirement("deploy:artefact:reproducible")
def test_the_digest_is_of_the_content_alone(tmp_path: pathlib.Path) -> None:
    one = _tree(tmp_path / "one", ("a", "b/c", "b/d"))
    two = _tree(tmp_path / "two", ("b/d", "a", "b/c"))
    os.utime(two / "a", (1, 1))
    (two / "a").chmod(0o600)
    assert archive.pack(one, None, _MOST) == archive.pack(two, None, _MOST)
    (two / "a").write_text("other")
    assert archive.pack(one, None, _MOST) != archive.pack(two, None, _MOST)


@pytest.mark.requirement("deploy:artefact:verified")
def test_what_was_packed_comes_back_read_only_with_the_same_digest(tmp_path: pathlib.Path) -> None:
    one = _tree(tmp_path / "one", ("a", "b/c"))
    packed = io.BytesIO()
    digest = archive.pack(one, packed, _MOST)
    packed.seek(0)
    archive.unpack(packed, tmp_path / "two", _MOST)
    assert archive.pack(tmp_path / "two", None, _MOST) == digest
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "two").rglob("*") if not path.is_symlink()} == {
        "0o444",
        "0o555",
    }
    assert os.readlink(tmp_path / "two/link") == "/opt/python/bin/python3"
    archive.remove(tmp_path / "two")
    assert not (tmp_path / "two").exists()


@pytest.mark.requirement("deploy:artefact:traversal")
@pytest.mark.parametrize(
    "entries",
    [
        (_entry("../escaped"),),
        (_entry("/escaped"),),
        (_entry("a/../../escaped"),),
        (_entry("a", tarfile.SYMTYPE, ".."), _entry("a/escaped")),
        (_entry("a", tarfile.SYMTYPE, "../escaped"), _entry("a")),
        (_entry("a", tarfile.LNKTYPE, "/etc/passwd"),),
        (_entry("a", tarfile.CHRTYPE),),
        (_entry("a", tarfile.FIFOTYPE),),
        (_entry("."),),
        (_entry("a"), _entry("a")),
        (_entry("big", size=_MOST + 1),),
    ],
    ids=[
        "parent",
        "absolute",
        "nested",
        "through-link",
        "onto-link",
        "hardlink",
        "device",
        "fifo",
        "dot",
        "twice",
        "big",
    ],
)
def test_an_archive_that_we_would_not_have_made_is_refused(
    tmp_path: pathlib.Path, entries: tuple[tarfile.TarInfo, ...]
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(errors.TamperedData):
        archive.unpack(_tar(*entries), tmp_path / "in/new", _MOST)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.requirement("deploy:artefact:traversal")
@pytest.mark.parametrize("data", [b"", b"x" * 2000, b"\0" * 100])
def test_what_is_no_archive_makes_no_artefact(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "in").mkdir()
    try:
        archive.unpack(io.BytesIO(data), tmp_path / "in/new", _MOST)
    except errors.TamperedData:
        return
    assert list((tmp_path / "in/new").iterdir()) == []


@pytest.mark.requirement("deploy:artefact:limits")
def test_a_build_that_is_too_large_or_makes_odd_files_is_refused(tmp_path: pathlib.Path) -> None:
    tree = _tree(tmp_path / "one", ("a",))
    with pytest.raises(errors.DeployFailed, match="larger"):
        archive.pack(tree, None, 2)
    os.mkfifo(tree / "fifo")
    with pytest.raises(errors.DeployFailed, match="no file"):
        archive.pack(tree, None, _MOST)
    (tree / "fifo").unlink()
    os.link(tree / "a", tree / "hard")
    with pytest.raises(errors.DeployFailed, match="no file"):
        archive.pack(tree, None, _MOST)


@pytest.mark.requirement("deploy:artefact:traversal")
def test_removing_does_not_follow_links(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/link").symlink_to(outside)
    (tree / "d").chmod(0o500)
    archive.remove(tree)
    assert (outside / "kept").exists()
    assert not tree.exists()


@pytest.mark.requirement("deploy:artefact:machine")
def test_a_machine_that_is_out_of_something_is_not_taken_for_tampering(tmp_path: pathlib.Path) -> None:
    gc.collect()  # what earlier tests have left open would be closed meanwhile, and give more room
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(errors.Unavailable):
            archive.unpack(_tar(_entry("file", size=3)), tmp_path / "into", _MOST)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
