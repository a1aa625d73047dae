"""All that the launcher can be asked, and all that it answers: a closed schema over one SOCK_SEQPACKET socket.

One datagram is one message (JSON), file descriptors travel with it (unix(7), SCM_RIGHTS). What is not in these unions,
or has a field too many, ends the connection, and with it every cell: whoever sends it is not the platform.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.sandbox import walls

LARGEST: Final = 65_536
"""Bytes of one datagram. A cell is larger: it comes as a memory file."""
LARGEST_CELL: Final = 16_777_216

MOST_MEASURED: Final = 256
"""Cells in one `Measure`, so that the answer fits a datagram."""

_Id = Annotated[int, Meta(ge=1, le=2**53)]
Name = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z")]
"""A tenant's or a server's name."""


class House(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the launcher knows from its own start, from whoever started it, and never from the platform."""

    platform: Annotated[str, Meta(pattern=r"\A[a-z0-9]{1,16}\Z")]
    """Tells this installation's cells and cgroups from another's."""
    host: walls.Host
    uid: int
    """The platform's uid: who owns the directories of builds."""
    uid_first: int = 0
    """The first uid for cells (the fetcher's; tenants' follow); 0 when all runs as one user."""
    uid_count: int = 0
    fixed: tuple[str, ...] = ()
    """Files and directories of the host that a cell may see read-only: interpreters, tools, package sources."""
    artefacts: str
    """Below it lies what tenants' cells see read-only."""
    doors: str = ""
    """Below it, in a directory for each tenant, lie sockets of the platform that its cells may connect to."""
    work: str
    """Below it lies what builds write."""
    caches: tuple[str, ...] = ()
    """Directories that only the fetcher writes."""
    volumes: str
    """An empty directory: where volumes are mounted, in the launcher's own view only."""


# --- questions ---


class Start(msgspec.Struct, tag="start", frozen=True, forbid_unknown_fields=True):
    """Start a cell. With it come stdin, stdout, stderr, a memory file that holds the cell (MessagePack), and as many
    further descriptors for its command as the cell says."""

    id: _Id


class Kill(msgspec.Struct, tag="kill", frozen=True, forbid_unknown_fields=True):
    """End a cell and every process in it. No answer but `Exited`."""

    id: _Id


class Freeze(msgspec.Struct, tag="freeze", frozen=True, forbid_unknown_fields=True):
    """Stop (or let go on) every process of a cell. Answered with `Done`; `ok` is false when this machine can't."""

    id: _Id
    question: _Id
    frozen: bool


class OpenVolume(msgspec.Struct, tag="open_volume", frozen=True, forbid_unknown_fields=True):
    """Mount an empty volume of `bytes` for a tenant's server. Answered with `Done`."""

    question: _Id
    tenant: Name
    server: Name
    bytes: Annotated[int, Meta(ge=4096, le=2**40)]


class CloseVolume(msgspec.Struct, tag="close_volume", frozen=True, forbid_unknown_fields=True):
    """Forget a volume and all that is in it. Answered with `Done`."""

    question: _Id
    tenant: Name
    server: Name


class Own(msgspec.Struct, tag="own", frozen=True, forbid_unknown_fields=True):
    """Hand a directory below `work` to the uid of a tenant ('' for the fetcher, None for the platform)."""

    question: _Id
    path: Annotated[str, Meta(max_length=4096)]
    tenant: Annotated[str, Meta(pattern=r"\A(?:[a-z0-9][a-z0-9-]{0,62})?\Z")] | None


class Identify(msgspec.Struct, tag="identify", frozen=True, forbid_unknown_fields=True):
    """Which uid of the host do the cells of a tenant have? Answered with `Done`."""

    question: _Id
    tenant: Name


class Measure(msgspec.Struct, tag="measure", frozen=True, forbid_unknown_fields=True):
    """What have these cells taken so far? Answered with `Measured`."""

    question: _Id
    cells: Annotated[tuple[_Id, ...], Meta(max_length=MOST_MEASURED)]


Question = Start | Kill | Freeze | OpenVolume | CloseVolume | Own | Identify | Measure


# --- answers ---


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The first message: the launcher stands."""

    layers: tuple[str, ...] = ()
    """Those of cgroups, which only it can know of."""
    swept: int = 0
    """Cells of an earlier run that were still there."""


class Started(msgspec.Struct, tag="started", frozen=True):
    """A cell runs. With it come the sockets of its network, if it has one."""

    id: int
    pid: int


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """A cell could not be started, and why."""

    id: int
    why: str


class Exited(msgspec.Struct, tag="exited", frozen=True):
    """A cell is gone, every process of it."""

    id: int
    code: int
    """As of `subprocess`: negative for a signal."""
    out_of_memory: bool = False
    cpu_s: float | None = None
    """Processor time that it has taken, in seconds; None where nothing told."""
    memory_byte_s: float | None = None
    """Bytes of memory times the seconds that it had them; None where nothing told."""


class Reading(msgspec.Struct, frozen=True):
    """What one cell has taken so far: as in `Exited`."""

    id: int
    cpu_s: float | None
    memory_byte_s: float | None


class Measured(msgspec.Struct, tag="measured", frozen=True):
    """The answer to `Measure`: of those cells that are still there."""

    question: int
    cells: tuple[Reading, ...]


class Done(msgspec.Struct, tag="done", frozen=True):
    """The answer to a question that has one."""

    question: int
    ok: bool = True
    why: str = ""
    uid: int | None = None
    """What `Identify` asked for; None where cells have the platform's own."""


Answer = Ready | Started | Failed | Exited | Done | Measured
