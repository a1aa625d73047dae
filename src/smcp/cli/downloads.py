"""Bytes on their way between files and a platform: shown as they go, and whole or not there."""

import contextlib
import hashlib
import os
import pathlib
import re
import stat
import sys
from collections.abc import Generator, Iterator
from typing import BinaryIO, Final, NamedTuple

from smcp.cli import client, failures, output

CHUNK: Final = 262_144
_MD5: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Wanted(NamedTuple):
    """An object to read: its path in the API, size in bytes and etag."""

    path: str
    size: int
    etag: str


@contextlib.contextmanager
def opened(source: pathlib.Path) -> Generator[tuple[BinaryIO, int | None]]:
    """A file to read, or standard input for `-`, and how many bytes it has, where that is known."""
    if str(source) == "-":
        if sys.stdin.isatty():
            raise failures.Failure(
                "usage",
                "There is nothing to write: say a file, or put '< file' behind it.",
                exit_code=failures.Exit.USAGE,
            )
        yield sys.stdin.buffer, None
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise _failed(source, "read", error) from error
    with file:
        found = os.fstat(file.fileno())
        yield file, found.st_size if stat.S_ISREG(found.st_mode) else None


def watched(out: output.Output, chunks: Iterator[bytes], size: int | None, done: int = 0) -> Iterator[bytes]:
    """`chunks`, with a bar for whoever watches them go by at a terminal."""
    if out.as_json or not sys.stderr.isatty():
        yield from chunks
        return
    from rich import console, progress

    columns = (
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size, completed=done)
        for chunk in chunks:
            yield chunk
            bar.advance(task, len(chunk))


def to_stream(out: output.Output, api: client.Client, wanted: Wanted, target: BinaryIO) -> None:
    """Write an object's bytes. Raises `failures.Failure`, also when they are other ones than they should be."""
    running = hashlib.md5(usedforsecurity=False)
    with api.download(wanted.path, etag=wanted.etag) as chunks:
        for chunk in watched(out, chunks, wanted.size):
            running.update(chunk)
            target.write(chunk)
    target.flush()
    _check(wanted, running.hexdigest())


def to_file(out: output.Output, api: client.Client, wanted: Wanted, target: pathlib.Path) -> None:
    """Make `target` of an object's bytes, or replace it.

    They are gathered beside it, under a name that has the object's etag, and only then get its own. What an earlier
    attempt has gathered is taken up again.
    """
    etag = re.sub(r"[^0-9A-Za-z-]", "", wanted.etag)[:64]
    partial = target.with_name(f".{target.name[:100]}.{etag}.part")
    try:
        with _gathering(partial) as file:
            running = hashlib.md5(usedforsecurity=False)
            done = 0
            while data := file.read(CHUNK):
                running.update(data)
                done += len(data)
            if done > wanted.size:  # no part of it
                file.truncate(0)
                file.seek(0)
                running, done = hashlib.md5(usedforsecurity=False), 0
            if done < wanted.size:
                with api.download(wanted.path, etag=wanted.etag, offset=done) as chunks:
                    for chunk in watched(out, chunks, wanted.size, done):
                        running.update(chunk)
                        file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        try:
            _check(wanted, running.hexdigest())
        except failures.Failure:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(target)
    except OSError as error:
        raise _failed(target, "written", error) from error


@contextlib.contextmanager
def _gathering(partial: pathlib.Path) -> Generator[BinaryIO]:
    # Nobody else's file, however it came there: neither followed as a link, nor readable for others.
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "r+b") as file:
        yield file


def _check(wanted: Wanted, md5: str) -> None:
    # Of an object that was uploaded in parts, the etag says nothing about the bytes as a whole.
    if _MD5.fullmatch(wanted.etag) and wanted.etag != md5:
        raise failures.Failure(
            "damaged",
            "What arrived is not what the object's etag says.",
            hint="Try again; if it stays so, something on the way changes what it carries.",
        )


def _failed(path: pathlib.Path, what: str, error: OSError) -> failures.Failure:
    return failures.Failure("usage", f"{path} can't be {what}: {error.strerror}.", exit_code=failures.Exit.USAGE)
