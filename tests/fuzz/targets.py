"""All targets that are functions; the HTTP edge is apart."""

from typing import Final

from fuzz import hosted, shapes, waiting, wires

ALL: Final = (*wires.TARGETS, *shapes.TARGETS, *hosted.TARGETS, *waiting.TARGETS)
