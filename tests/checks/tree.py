"""The repository as the checks see it: its files, its functions, its Markdown."""

import ast
import gc
import pathlib
import re
import subprocess
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
CODE = ("src", "tests", "bench")


def files(*suffixes: str) -> list[pathlib.Path]:
    """Every file that is, or is about to be, in version control; only those with `suffixes` when any is given."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    found = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return sorted(file for file in found if file.is_file() and (not suffixes or file.suffix in suffixes))


def code() -> list[pathlib.Path]:
    """Every Python file of ours."""
    return [file for file in files(".py") if file.relative_to(ROOT).parts[0] in CODE]


def name(file: pathlib.Path) -> str:
    """`file` as messages show it."""
    return str(file.relative_to(ROOT))


def parsed(file: pathlib.Path) -> ast.Module:
    """`file` as a syntax tree."""
    # What is collected may log a traceback, and that parses, too: within another one CPython 3.11 takes it for its own
    # depth gone wrong (SystemError).
    paused = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(file.read_text("utf-8"), str(file))
    finally:
        if paused:
            gc.enable()


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function in `module`, nested ones and methods included."""
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first decorator to the last statement."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or function.lineno) - first + 1


_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of a Markdown `text` that are in one of `languages`."""
    return [body for language, body in _FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """A Markdown `text` without its fenced blocks and inline code, where brackets mean nothing."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The fragments that the headings of a Markdown `text` can be reached by, as the usual renderers make them."""
    seen: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*$", _FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (f"{slug}-{number}" if number else slug) in seen:
            number += 1
        seen.add(f"{slug}-{number}" if number else slug)
    return seen
