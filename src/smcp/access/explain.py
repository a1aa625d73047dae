"""Why a decision came out as it did, in sentences: for `smcp policy test`.

It asks `policy` and `tools`, and decides nothing itself.
"""

from typing import NamedTuple

from smcp.access import policy, scopes, tools
from smcp.access.actions import Action


class Verdict(NamedTuple):
    """What would happen, and why."""

    decision: policy.Decision
    hidden: bool
    """The tool would not be on the list, and calling it would look like calling one that does not exist."""
    because: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Would it be done?"""
        return self.decision is policy.Decision.ALLOW and not self.hidden


def verdict(
    principal: policy.Principal, action: Action, resource: policy.Resource, tool: str = "", *, read_only: bool = False
) -> Verdict:
    """May `principal` do `action` to `resource`, and, where a tool is named, to that tool?"""
    decision = policy.decide(principal, action, resource)
    because = [*_roles(principal, action, resource), *_narrowing(principal, action, resource)]
    choice = tools.choice(principal, resource) if tool else None
    hidden = False
    if choice is not None and decision is policy.Decision.ALLOW:
        hidden = not choice.shows(tool, read_only=read_only)
        if hidden:
            because.append(f"Of this server's tools, the roles leave {tool} out: it looks as if it did not exist.")
        elif action is Action.MCP_CALL and not choice.calls(tool, read_only=read_only):
            decision = policy.Decision.DENY
            because.append(f"The roles let {tool} be seen, but not called.")
    return Verdict(decision, hidden, tuple(because))


def _roles(principal: policy.Principal, action: Action, resource: policy.Resource) -> list[str]:
    told: list[str] = []
    rules = {rule.role: rule for rule in principal.rules}
    for name in principal.roles:
        rule = rules.get(name)
        if rule is None:
            alone = policy.given(_alone(principal, name), resource)
            if name not in set(policy.Role):
                told.append(f"There is no role {name}: it gives nothing.")
            elif action in alone:
                told.append(f"Role {name} gives {action} here.")
            else:
                told.append(f"Role {name} does not give {action} here.")
        elif not policy.reaches(principal, rule, resource):
            told.append(f"Role {name} reaches only the servers {', '.join(sorted(rule.servers))}.")
        elif action in rule.actions:
            told.append(f"Role {name} gives {action} here{_conditions(rule)}.")
        else:
            told.append(f"Role {name} does not give {action}.")
    return told or ["There are no roles: nothing is given."]


def _alone(principal: policy.Principal, role: str) -> policy.Principal:
    # The same principal with one role.
    return policy.Principal(principal.tenant, principal.id, principal.kind, (role,))


def _conditions(rule: policy.Rule) -> str:
    parts = [f"for tools like {', '.join(rule.tools)}"] if rule.tools else []
    if rule.read_only:
        parts.append("for tools that only read")
    return f", {' and '.join(parts)}" if parts else ""


def _narrowing(principal: policy.Principal, action: Action, resource: policy.Resource) -> list[str]:
    told: list[str] = []
    if principal.servers is not None and resource.server not in principal.servers:
        told.append(f"The key is for {', '.join(sorted(principal.servers))} only, and looks at nothing else.")
    if principal.scopes is not None:
        held = scopes.text(principal.scopes) or "none"
        lacks = action not in scopes.actions(principal.scopes)
        told.append(f"The scopes ({held}) {'lack ' + scopes.NEEDS[action] if lacks else 'allow it'}.")
    return told
