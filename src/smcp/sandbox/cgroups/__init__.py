"""Control groups: what a cell as a whole may take of memory, processes and processor time, and how it is ended whole.

For the launcher: blocking, a few system calls each, no thread, no asyncio, standard library only. Both versions of the
kernel's interface are spoken, and both at once (cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).
"""

from smcp.sandbox.cgroups.groups import Found, Group, Groups, find, look
from smcp.sandbox.cgroups.nodes import CPU, LAYERS, MEMORY, PIDS, Limits, Usage

__all__ = ["CPU", "LAYERS", "MEMORY", "PIDS", "Found", "Group", "Groups", "Limits", "Usage", "find", "look"]
