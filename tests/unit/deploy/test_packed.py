"""Hostile archives: every way out of the directory, past the limits, or into a second reading is refused."""

import gzip
import io
import pathlib
import random
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Final

import pytest

from smcp.deploy import packed
from smcp.kernel import errors

_MOST: Final = 50_000_000


def _unpack(data: bytes, tmp_path: pathlib.Path, most: int = _MOST) -> pathlib.Path:
    (tmp_path / "upload").write_bytes(data)
    packed.unpack(tmp_path / "upload", tmp_path / "out", most)
    return tmp_path / "out"


def _refused(data: bytes, tmp_path: pathlib.Path, told: str, most: int = _MOST) -> None:
    (tmp_path / "beside").write_text("untouched")
    with pytest.raises(errors.DeployFailed, match=told):
        _unpack(data, tmp_path, most)
    assert (tmp_path / "beside").read_text() == "untouched"
    assert {path.name for path in tmp_path.iterdir()} == {"upload", "beside", "out"}
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()] == []


def _zip(*entries: tuple[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile finds a name that comes twice odd, too
        for name, data in entries:
            archive.writestr(name, data)
    return target.getvalue()


def _mode(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def _tar(
    *entries: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "", form: int = tarfile.PAX_FORMAT
) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, link, len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


@pytest.mark.requirement("deploy:unpack:sound")
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("press", [bytes, gzip.compress])
def test_a_sound_tar_comes_out_as_it_is(form: int, press: Callable[[bytes], bytes], tmp_path: pathlib.Path) -> None:
    # USTAR splits at a slash; the others have headers of their own for longer names.
    long = f"{'d' * 90}/{'f' * 90}.py"
    data = _tar(("./a.py", b"x"), ("pkg/b.txt", b"y" * 5000), (long, b"z"), ("empty", b""), form=form)
    out = _unpack(press(data), tmp_path)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "a.py", "pkg/b.txt", long, "empty"
    }  # fmt: skip
    assert (out / "pkg/b.txt").read_bytes() == b"y" * 5000


@pytest.mark.requirement("deploy:unpack:sound")
def test_a_sound_zip_comes_out_with_plain_modes_whatever_it_asks_for(tmp_path: pathlib.Path) -> None:
    out = _unpack(
        _zip((_mode("run", stat.S_IFREG | 0o6777), b"x"), (_mode("a/", stat.S_IFDIR | 0o777), b""), ("a/é.txt", b"y")),
        tmp_path,
    )
    assert stat.S_IMODE((out / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "a/é.txt").stat().st_mode) == 0o644


_NAMES: Final = {
    "traversal": ("../x", "leaves"),
    "traversal inside": ("a/../../x", "leaves"),
    "traversal at the end": ("a/..", "leaves"),
    "absolute": ("/tmp/x", "absolute"),
    "drive": ("C:/x", "absolute"),
    "backslash": ("a\\..\\x", "backslash"),
    "newline": ("a\nb", "control"),
    "right to left": ("a\u202eb", "control"),
    "double slash": ("a//b", "leaves"),
    "long part": ("a" * 256, "endless"),
    "long path": ("a/" * 511 + "xyz", "endless"),
    "deep": ("a/" * 65 + "x", "endless"),
}


@pytest.mark.requirement("deploy:unpack:names")
@pytest.mark.parametrize("kind", _NAMES)
def test_attack_zip_slip_a_name_that_leaves_its_place_is_refused(kind: str, tmp_path: pathlib.Path) -> None:
    name, told = _NAMES[kind]
    _refused(_zip((zipfile.ZipInfo(name), b"x")), tmp_path, told)


@pytest.mark.requirement("deploy:unpack:names")
@pytest.mark.parametrize("kind", _NAMES)
def test_attack_tar_slip_cve_2007_4559_a_name_that_leaves_its_place_is_refused(
    kind: str, tmp_path: pathlib.Path
) -> None:
    name, told = _NAMES[kind]
    _refused(_tar((name, b"x")), tmp_path, told)


@pytest.mark.requirement("deploy:unpack:names")
def test_attack_null_byte_two_readers_see_two_names(tmp_path: pathlib.Path) -> None:
    data = _zip(("goodXevil", b"x")).replace(b"goodXevil", b"good\0evil")
    _refused(data, tmp_path, "differently")


@pytest.mark.requirement("deploy:unpack:twice")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("a", "A"),
        ("é", "e\u0301"),
        ("ﬁle", "file"),
        ("a/x", "A/y"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("ß", "SS"),
    ],
)
def test_attack_collision_two_names_that_one_file_system_takes_for_one(
    first: str, second: str, tmp_path: pathlib.Path
) -> None:
    for place, data in enumerate((_tar((first, b"x"), (second, b"y")), _zip((first, b"x"), (second, b"y")))):
        (tmp_path / str(place)).mkdir()
        _refused(data, tmp_path / str(place), "twice|only in case|file and a directory")


@pytest.mark.requirement("deploy:unpack:kinds")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CONTTYPE, "not known"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_attack_link_and_device_entries_of_a_tar_are_refused(kind: bytes, told: str, tmp_path: pathlib.Path) -> None:
    data = _tar(("x", b""), kind=tarfile.DIRTYPE)[:512] + _tar(("y", b""), kind=kind, link="/etc/passwd")
    _refused(data, tmp_path, told)


@pytest.mark.requirement("deploy:unpack:kinds")
@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_attack_link_and_device_entries_of_a_zip_are_refused(kind: int, tmp_path: pathlib.Path) -> None:
    _refused(_zip((_mode("x", kind | 0o777), b"/etc/passwd")), tmp_path, "link or a device")


@pytest.mark.requirement("deploy:unpack:kinds")
def test_attack_a_links_target_hidden_in_a_zips_extra_field_is_refused(tmp_path: pathlib.Path) -> None:
    entry = zipfile.ZipInfo("x")
    entry.extra = struct.pack("<HH", 0x000D, 23) + b"\0" * 12 + b"/etc/passwd"
    _refused(_zip((entry, b"")), tmp_path, "link or a device")


@pytest.mark.requirement("deploy:unpack:kinds")
def test_attack_a_pax_header_that_makes_a_file_a_link_is_refused(tmp_path: pathlib.Path) -> None:
    for place, header in enumerate(({"linkpath": "/etc/passwd"}, {"GNU.sparse.major": "1"})):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
            entry = tarfile.TarInfo("x")
            entry.pax_headers = header
            archive.addfile(entry)
        (tmp_path / str(place)).mkdir()
        _refused(target.getvalue(), tmp_path / str(place), "no plain file")


@pytest.mark.requirement("deploy:unpack:kinds")
def test_encrypted_and_oddly_packed_entries_are_refused(tmp_path: pathlib.Path) -> None:
    locked = bytearray(_zip(("x", b"y")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + offset] |= 1
    cases = ((bytes(locked), "encrypted"), (_zip(("x", b"y"), packing=zipfile.ZIP_LZMA), "few readers"))
    for place, (data, told) in enumerate(cases):
        (tmp_path / str(place)).mkdir()
        _refused(data, tmp_path / str(place), told)


@pytest.mark.requirement("deploy:unpack:bombs")
def test_attack_bomb_growth_and_size_are_counted_in_bytes_that_came_out(tmp_path: pathlib.Path) -> None:
    zeros = b"\0" * 30_000_000
    cases = (
        (_zip(("x", zeros)), "bomb", 1 << 30),
        (gzip.compress(_tar(("x", zeros))), "bomb", 1 << 30),
        (_zip(("x", zeros)), "max_bytes", 1_000_000),
        (_tar(("x", zeros)), "max_bytes", 1_000_000),
    )
    for place, (data, told, most) in enumerate(cases):
        (tmp_path / str(place)).mkdir()
        _refused(data, tmp_path / str(place), told, most)


@pytest.mark.requirement("deploy:unpack:bombs")
def test_attack_bomb_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: pathlib.Path) -> None:
    honest = _zip(("x", b"\0" * 30_000_000))
    lying = bytearray(honest)
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = lying.index(mark) + offset
        lying[place : place + 4] = struct.pack("<I", 10)
    _refused(bytes(lying), tmp_path, "no sound|bomb")


@pytest.mark.requirement("deploy:unpack:bombs")
def test_attack_bomb_a_table_of_contents_that_would_fill_the_memory_is_refused(tmp_path: pathlib.Path) -> None:
    data = bytearray(_zip(("x", b"y")))
    end = data.rindex(b"PK\x05\x06")
    data[end + 10 : end + 12] = struct.pack("<H", 60_000)
    _refused(bytes(data), tmp_path, "table of contents")
    zip64 = bytes(data[:end]) + b"PK\x06\x07" + b"\0" * 16 + bytes(data[end:])
    (tmp_path / "more").mkdir()
    _refused(zip64, tmp_path / "more", "zip64")


@pytest.mark.requirement("deploy:unpack:bombs")
def test_attack_bomb_too_many_entries_and_endless_headers_are_refused(tmp_path: pathlib.Path) -> None:
    entry = tarfile.TarInfo("d/")
    entry.type = tarfile.DIRTYPE
    many = entry.tobuf(tarfile.USTAR_FORMAT) * (packed.MOST_ENTRIES + 1)
    (tmp_path / "many").mkdir()
    _refused(gzip.compress(many), tmp_path / "many", "more than 50000 entries")
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        header = tarfile.TarInfo("h")
        header.type, header.size = kind, 8_000_000_000
        (tmp_path / kind.hex()).mkdir()
        _refused(header.tobuf(tarfile.GNU_FORMAT), tmp_path / kind.hex(), "endless header|no sound")


@pytest.mark.requirement("deploy:unpack:bombs")
def test_attack_bomb_directories_that_no_entry_asks_for_count_as_entries(tmp_path: pathlib.Path) -> None:
    # 850 entries of 60 parts each: a few kilobytes packed.
    deep = "/".join("d" * 60)
    data = _tar(*((f"{one}/{deep}/x", b"") for one in range(850)))
    _refused(gzip.compress(data), tmp_path, "more than 50000 entries")


@pytest.mark.requirement("deploy:unpack:bombs")
def test_attack_bomb_a_directory_with_a_content_is_refused_before_it_is_read(tmp_path: pathlib.Path) -> None:
    entry = tarfile.TarInfo("d/")
    entry.type, entry.size = tarfile.DIRTYPE, 8_000_000_000
    _refused(gzip.compress(entry.tobuf(tarfile.USTAR_FORMAT)), tmp_path, "directory with a content")


@pytest.mark.requirement("deploy:unpack:sound")
@pytest.mark.parametrize(
    "data",
    [
        b"", b"PK\x03\x04", b"PK\x03\x04" + b"x" * 100, b"\x1f\x8b", b"\x1f\x8b" + b"x" * 100, b"x" * 512, b"\0" * 100,
        _tar(("x", b"y" * 2000))[:1500], gzip.compress(_tar(("x", b"y")))[:-30], _zip(("x", b"y"))[:-10],
    ],
    ids=range(10),  # they hold the time; every worker must name the tests alike
)  # fmt: skip
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: pathlib.Path) -> None:
    _refused(data, tmp_path, "no sound zip")


@pytest.mark.requirement("deploy:unpack:sound")
def test_a_broken_checksum_is_refused(tmp_path: pathlib.Path) -> None:
    data = bytearray(_tar(("x", b"y")))
    data[0:1] = b"z"
    _refused(bytes(data), tmp_path, "no sound")


@pytest.mark.requirement("deploy:unpack:sound")
def test_a_damaged_archive_is_unpacked_inside_or_refused_and_nothing_else(tmp_path: pathlib.Path) -> None:
    chance = random.Random(20261122)
    sound = [_zip(("a", b"x" * 900), ("d/é", b""), ("q/", b"")), _tar(("a", b"x" * 900), ("é" * 60, b"y"))]
    marks = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
    seen: set[str] = set()
    for _ in range(600):
        data = bytearray(chance.choice(sound))
        for _ in range(chance.choice((1, 2, 5))):
            # Mostly in the headers, where it matters.
            header = data.rfind(chance.choice(marks)) if data.startswith(b"PK") else chance.randrange(len(data)) & ~511
            data[min(max(header, 0) + chance.randrange(160), len(data) - 1)] = chance.randrange(256)
        for place in range(0, len(data) - 511, 512):
            if data.startswith(b"ustar", place + 257):  # so that it is not only the checksum that is wrong
                block = data[place : place + 512]
                data[place + 148 : place + 156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
        (tmp_path / "upload").write_bytes(data)
        try:
            packed.unpack(tmp_path / "upload", tmp_path / "out", _MOST)
            seen.add("unpacked")
        except errors.DeployFailed:
            seen.add("refused")
        shutil.rmtree(tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"upload"}
    assert seen == {"unpacked", "refused"}
