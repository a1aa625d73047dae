"""The official MCP conformance suite against a server: which of the required scenarios pass, and why others don't."""

import dataclasses
import json
import pathlib
import re
import tempfile
import urllib.parse
from dataclasses import dataclass
from typing import Any, Final, Literal

from support import node

Revision = Literal["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]
Result = Literal["passes", "warns", "fails", "checks nothing"]

_PACKAGE: Final = node.MODULES / "@modelcontextprotocol" / "conformance"
_PRELOAD: Final = node.CLIENTS / "bearer.cjs"
_RESULT: Final = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")
_SUITE_S: Final = 600.0

_SCENARIO_MS: Final = "120000"
"""How long one scenario may take; by itself the suite gives it 30 s, which is a verdict on the machine."""

# Revisions with a frozen list of requirements; of an older one, every scenario that knows it counts.
_FROZEN: Final = ("2025-11-25", "2026-07-28")


@dataclass(frozen=True)
class Scenario:
    """What one scenario's checks said."""

    name: str
    required: bool
    succeeded: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    repeated: bool = False

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        return self.result in ("passes", "warns")

    @property
    def result(self) -> Result:
        """What it comes to. A warning is a SHOULD that is not met; the suite counts it as passed."""
        if self.failures:
            return "fails"
        if self.warnings:
            return "warns"
        return "passes" if self.succeeded > 0 else "checks nothing"


@dataclass(frozen=True)
class Outcome:
    """One run of the suite at one revision."""

    revision: Revision
    scenarios: tuple[Scenario, ...]

    @property
    def required(self) -> int:
        """How many scenarios the revision requires."""
        return sum(one.required for one in self.scenarios)

    @property
    def passed(self) -> int:
        """How many of the required scenarios pass."""
        return sum(one.required and one.passed for one in self.scenarios)

    @property
    def remarks(self) -> dict[str, Result]:
        """Every scenario, required or not, that does not simply pass."""
        return {one.name: one.result for one in self.scenarios if one.result != "passes"}

    @property
    def names(self) -> frozenset[str]:
        """Every scenario that was run."""
        return frozenset(one.name for one in self.scenarios)

    @property
    def failures(self) -> dict[str, list[str]]:
        """The required scenarios that fail, each with what its checks said."""
        return {
            one.name: list(one.failures) or ["it did not check anything"]
            for one in self.scenarios
            if one.required and not one.passed
        }

    def table(self) -> str:
        """The run for people: one line a scenario, then the sum."""
        lines = [_line(one) for one in self.scenarios]
        return "\n".join([f"MCP {self.revision}", *lines, f"{self.passed} of {self.required} required scenarios pass"])


def run(url: str, key: str | None, requirements: Revision = "2025-11-25") -> Outcome:
    """Run the scenarios of `requirements` against the endpoint `url`, with `key` as bearer key on every request.

    Fails when the suite itself does not run to its end.
    """
    code, found = _suite(url, key, _selection(requirements))
    needed = _required(requirements) if requirements in _FROZEN else sorted(found)
    outcome = Outcome(
        requirements,
        tuple(
            Scenario(name, name in needed, *found.get(name, (0, (), ())))
            for name in [*needed, *sorted(found.keys() - set(needed))]
        ),
    )
    _agree(outcome, code)
    return outcome


def again(outcome: Outcome, name: str, url: str, key: str | None) -> Outcome:
    """`outcome` with the scenario `name` as it comes out when it is run again, alone."""
    _, found = _suite(url, key, ("--scenario", name, "--spec-version", outcome.revision))
    return dataclasses.replace(
        outcome,
        scenarios=tuple(
            Scenario(name, one.required, *found[name], repeated=True) if one.name == name else one
            for one in outcome.scenarios
        ),
    )


def _suite(
    url: str, key: str | None, selection: tuple[str, ...]
) -> tuple[int, dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]]]:
    node.ensure()
    environ = {} if key is None else _bearer(url, key)
    with tempfile.TemporaryDirectory(prefix="smcp-conformance-") as directory:
        results = pathlib.Path(directory)
        done = node.run(
            _PACKAGE / "dist" / "index.js",
            *("server", "--url", url, *selection, "--timeout", _SCENARIO_MS, "-o", str(results)),
            environ=environ,
            timeout_s=_SUITE_S,
        )
        found = {name: _scenario(checks) for name, checks in _results(results).items()}
    # 0: all required pass; 1: some don't. Anything else, or no result, is the suite's own failure.
    assert done.returncode in (0, 1), f"the suite ended with {done.returncode}:\n{done.stderr[-4000:]}"
    assert found, f"the suite did not come to its end:\n{done.stdout[-2000:]}{done.stderr}"
    ended = "--scenario" in selection or "=== SUMMARY ===" in done.stdout
    assert ended, f"the suite did not come to its end:\n{done.stdout[-2000:]}{done.stderr}"
    return done.returncode, found


def _bearer(url: str, key: str) -> dict[str, str]:
    parts = urllib.parse.urlsplit(url)
    return {
        "NODE_OPTIONS": f"--require {_PRELOAD}",
        "SMCP_TEST_ORIGIN": f"{parts.scheme}://{parts.netloc}",
        "SMCP_TEST_BEARER": key,
    }


def _selection(revision: Revision) -> tuple[str, ...]:
    if revision in _FROZEN:
        return ("--requirements", revision)
    return ("--suite", "all", "--spec-version", revision)


def _required(revision: Revision) -> list[str]:
    """The server scenarios that the suite's own frozen list requires."""
    text = (_PACKAGE / "requirements" / f"{revision}.yaml").read_text("utf-8")
    listed = re.search(r"^server:\n((?:\s+(?:- .*|#.*)?\n)+)", text, re.MULTILINE)
    assert listed is not None, f"the requirements of {revision} have another form than expected"
    return re.findall(r"^\s+- ([a-z0-9-]+)", listed[1], re.MULTILINE)


def _results(directory: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for file in directory.glob("*/checks.json"):
        match = _RESULT.fullmatch(file.parent.name)
        assert match is not None, f"a result with an unknown name: {file.parent.name}"
        found[match["scenario"]] = json.loads(file.read_text("utf-8"))
    return found


def _scenario(checks: list[dict[str, Any]]) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    def said(status: str) -> tuple[str, ...]:
        return tuple(
            f"{check['id']}: {check.get('errorMessage') or check.get('description', '')}"
            for check in checks
            if check["status"] == status
        )

    return len(said("SUCCESS")), said("FAILURE"), said("WARNING")


def _agree(outcome: Outcome, code: int) -> None:
    """Our reading of the results must be the suite's own: it ends with 1 when something required failed."""
    assert code == 0 or outcome.failures, "the suite says that a required scenario failed, and no result shows it"
    failed = [one.name for one in outcome.scenarios if one.required and one.failures]
    assert code == 1 or not failed, f"the suite says that all required scenarios passed, and these did not: {failed}"


def _line(one: Scenario) -> str:
    sign = "pass" if one.passed else "FAIL"
    kind = ("" if one.required else " (not scored)") + (" (run again, alone)" if one.repeated else "")
    notes = "".join(f"\n       {text[:600]}" for text in (*one.failures, *(f"warning: {w}" for w in one.warnings)))
    return f"  {sign} {one.name}: {one.succeeded} checks{kind}{notes}"
