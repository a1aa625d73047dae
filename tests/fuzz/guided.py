"""One target, guided by coverage: `python -m fuzz.guided TARGET -runs=N`. A process of its own: atheris changes what it
imports and never returns."""

import importlib
import os
import sys
from typing import Any

import pytest

_guide: Any = importlib.import_module("atheris")  # not there for every Python: nothing else may need its types

with _guide.instrument_imports(include=["smcp"]):
    from fuzz import engine, grammar, targets

_WORD_BYTES = 64
"""Longest word of a dictionary."""


def main() -> None:
    """Run until atheris has enough. Ends with another code than 0 at a finding."""
    target = next(one for one in targets.ALL if one.name == sys.argv[1])
    corpus = engine.KEPT / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(200):
        engine.keep("corpus", target.name, target.make(engine.dice(engine.SEED, target.name, number)))
    words = corpus.with_name(f"{target.name}.words")
    short = (one for one in grammar.PIECES if len(one) <= _WORD_BYTES)
    words.write_text("".join('"' + "".join(map("\\x{:02x}".format, one)) + '"\n' for one in short))

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except (Exception, pytest.fail.Exception) as error:
            print(engine.told(target.name, data, error), file=sys.stderr)
            raise

    options = ["-max_len=4096", "-timeout=120", "-rss_limit_mb=1024", "-print_final_stats=1", f"-dict={words}"]
    _guide.Setup([sys.argv[0], *options, *sys.argv[2:], f"-artifact_prefix={engine.KEPT}{os.sep}", str(corpus)], check)
    _guide.Fuzz()


if __name__ == "__main__":
    # libFuzzer's limit looks at the highest that the kernel has noted of its process (getrusage(2)), and that is
    # handed down: who starts this by vfork hands its own peak through execve, but nobody's comes through a fork.
    child = os.fork()
    if child == 0:
        main()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
