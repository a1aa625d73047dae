"""All targets that are functions; the HTTP edge is apart."""

from typing import Final

from fuzz import answers, bindings, hosted, r2, shapes, waiting, wires

ALL: Final = (
    *wires.TARGETS,
    *shapes.TARGETS,
    *hosted.TARGETS,
    *waiting.TARGETS,
    *answers.TARGETS,
    *bindings.TARGETS,
    *r2.TARGETS,
)
