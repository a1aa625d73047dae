"""Which tools of a server a principal sees and may call. Pure, as `policy` is; `policy.decide` comes first.

One decision for both: a tool that is not shown can't be called either, and looks as if it did not exist
(CVE-2026-46519, CVE-2026-49291: hidden on the list only).
"""

import hashlib
from typing import Final

import msgspec

from smcp.access import policy
from smcp.access.actions import Action


class Choice(msgspec.Struct, frozen=True):
    """Of some tools only. Who has no `Choice` at a server has all of them."""

    shown: tuple[policy.Rule, ...] | None
    """What lets tools be seen; None: all are."""
    called: tuple[policy.Rule, ...] | None
    """What lets tools be called; None: all that can be seen."""

    def shows(self, tool: str, *, read_only: bool) -> bool:
        """Is it on the list?"""
        return self.shown is None or any(rule.fits(tool, read_only=read_only) for rule in self.shown)

    def calls(self, tool: str, *, read_only: bool) -> bool:
        """May it be called? Asked of what is shown."""
        return self.called is None or any(rule.fits(tool, read_only=read_only) for rule in self.called)

    @property
    def digest(self) -> str:
        """The same for the same choice: what was shown under one is not shown under another."""
        parts = [
            None if rules is None else sorted((sorted(rule.tools), rule.read_only) for rule in rules)
            for rules in (self.shown, self.called)
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


_SHOW: Final = frozenset({Action.MCP_LIST, Action.MCP_CALL})


def choice(principal: policy.Principal, resource: policy.Resource) -> Choice | None:
    """What `principal` has of the tools of the server `resource`; None: all, as far as it may list or call at all."""
    if not any(rule.some_tools for rule in principal.rules):
        return None
    reaching = [rule for rule in principal.rules if policy.reaches(principal, rule, resource)]
    given = policy.given(principal, resource)
    calling = [rule for rule in reaching if Action.MCP_CALL in rule.actions]
    showing = [rule for rule in reaching if not _SHOW.isdisjoint(rule.actions)]
    all_called = Action.MCP_CALL in given or any(not rule.some_tools for rule in calling)
    all_shown = all_called or Action.MCP_LIST in given or any(not rule.some_tools for rule in showing)
    if all_called:
        return None
    return Choice(None if all_shown else tuple(showing), tuple(calling))
