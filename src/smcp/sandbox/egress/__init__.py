"""Egress: what a cell may reach, answered by the platform in the cell's own network (docs/decisions/0015).

`sandbox.network` gives a cell a network in which every IPv4 address is local, and hands the sockets that listen there
to the platform. Here they are served: the cell's name system (`names`) gives an allowed name an address that stands for
it; a connection to that address tells which name was meant; the rules (`rules`) decide; the platform resolves the real
name, checks every address (`guard`), dials the very address that it checked, and moves the bytes (`relay`).
No code of the tenant's takes part, and a program needs no proxy settings.
"""

from smcp.sandbox.egress.attachment import Attachment, Egress
from smcp.sandbox.egress.inside import ENV, binds, files
from smcp.sandbox.egress.lookup import Resolve

__all__ = ["ENV", "Attachment", "Egress", "Resolve", "binds", "files"]
