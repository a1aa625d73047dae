"""How much of the machine's memory is free, for what can be done without."""

import pathlib
from typing import Final

_MEMINFO: Final = pathlib.Path("/proc/meminfo")


def free() -> float:
    """The part of this machine's memory that new programs could have without swapping, between 0 and 1 (proc(5))."""
    found: dict[str, int] = {}
    with _MEMINFO.open("rb") as file:
        for line in file:
            name, _, value = line.partition(b":")
            if name in (b"MemTotal", b"MemAvailable"):
                found[name.decode()] = int(value.split()[0])
    return found.get("MemAvailable", 0) / max(found.get("MemTotal", 1), 1)
