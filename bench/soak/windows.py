"""What the platform holds when all is quiet, window by window, and whether that grows."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_MORE: Final = 0.10
"""Memory may grow by this part, and by `_MORE_KIB`: what lies free in an allocator differs from time to time."""
_MORE_KIB: Final[Mapping[str, int]] = {"platform": 8192, "launcher": 2048, "foreground": 2048}
_CACHE: Final = ("cache",)
"""What may be thrown away: packages that were fetched."""
_ARTEFACTS: Final = ("cache", "artefacts")
_MORE_FILES: Final = 6
_MORE_DESCRIPTORS: Final = 4
_MORE_THREADS: Final = 2


class Sample(NamedTuple):
    """One quiet moment."""

    descriptors: Mapping[str, int]
    """Open, by the platform's process."""
    threads: Mapping[str, int]
    anon_kib: Mapping[str, int]
    """Pss_Anon: what the process has written to and shares with nobody."""
    hosted: int
    """Processes below the launcher."""
    sessions: int
    files: int
    """In the data directory, its cache left out."""
    artefacts: int
    """Deployments that have files."""
    stored_mib: float
    """Size of the data directory, its cache left out."""
    requests: int
    """That were made until then."""


def sample(roles: Mapping[str, int], hosted: int, sessions: int, data: pathlib.Path, requests: int) -> Sample:
    """Look at the platform now; `roles` are its processes' ids."""
    files, size, artefacts = 0, 0, 0
    for path in data.rglob("*"):
        below = path.relative_to(data).parts
        if below[:2] == _ARTEFACTS:
            # cache/artefacts/<tenant>/<digest>
            artefacts += len(below) == 4
            continue
        if below[:1] == _CACHE:
            continue
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        files += 1
        size += found.st_blocks * 512
    return Sample(
        {role: len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())) for role, pid in roles.items()},
        {role: len(list(pathlib.Path(f"/proc/{pid}/task").iterdir())) for role, pid in roles.items()},
        {role: _anon(pid) for role, pid in roles.items()},
        hosted,
        sessions,
        files,
        artefacts,
        size / 2**20,
        requests,
    )


def _anon(pid: int) -> int:
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def grown(samples: Sequence[Sample], kept: int) -> list[str]:
    """What grew from the first windows to the last, in words; nothing when all is flat.

    The very first window is left out: in it everything is used for the first time. `kept` is the most deployments that
    the run may have left.
    """
    later = samples[1:]
    if len(later) < 2:
        return ["there were too few windows to compare"]
    third = max(1, len(later) // 3)
    early, late = later[:third], later[-third:]
    found: list[str] = []

    def check(what: str, before: Sequence[float], after: Sequence[float], more: float) -> None:
        one, two = statistics.median(before), statistics.median(after)
        if two > one + more:
            found.append(f"{what}: {one:,.0f} became {two:,.0f}, where {more:,.0f} more are allowed")

    for role in samples[0].anon_kib:
        kib = [one.anon_kib[role] for one in early]
        allowed = _MORE * statistics.median(kib) + _MORE_KIB[role]
        check(f"memory of the {role} in KiB", kib, [one.anon_kib[role] for one in late], allowed)
        check(
            f"descriptors of the {role}",
            [one.descriptors[role] for one in early],
            [one.descriptors[role] for one in late],
            _MORE_DESCRIPTORS,
        )
        check(
            f"threads of the {role}",
            [one.threads[role] for one in early],
            [one.threads[role] for one in late],
            _MORE_THREADS,
        )
    check("files in the data directory", [one.files for one in early], [one.files for one in late], _MORE_FILES)
    found += [f"{one.hosted} hosted processes were left in a quiet moment" for one in later if one.hosted]
    found += [f"{one.sessions} sessions were left in a quiet moment" for one in later if one.sessions]
    if late[-1].artefacts > kept:
        found.append(f"{late[-1].artefacts} deployments have files, where {kept} are kept")
    return found


def line(one: Sample) -> str:
    """A sample in one line."""
    memory = ", ".join(f"{role} {kib / 1024:.1f}" for role, kib in one.anon_kib.items())
    return (
        f"memory {memory} MiB; descriptors {_listed(one.descriptors)}; threads {_listed(one.threads)};"
        f" hosted processes {one.hosted}; sessions {one.sessions}; {one.files} files, {one.stored_mib:.1f} MiB,"
        f" {one.artefacts} artefacts"
    )


def _listed(numbers: Mapping[str, int]) -> str:
    return "/".join(str(number) for number in numbers.values())
