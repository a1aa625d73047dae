"""Secrets that are written into requests on the way out: how a manifest says so, and which hosts get them.

`substituted` is every host of the egress, `substituted:api.example.com` this one alone, and commas part several: code
that was led astray could show a secret of one host to another one that it may reach.
"""

from typing import Final

from smcp.sandbox.egress import rules

WORD: Final = "substituted"


def hosts(kind: str) -> tuple[rules.Rule, ...] | None:
    """Who gets a secret of this `kind`: none named is every host of the egress; None for one of another kind.

    Raises `errors.InvalidParams` for what names no host.
    """
    word, colon, named = kind.partition(":")
    if word != WORD:
        return None
    return rules.parsed(one.strip() for one in named.split(",")) if colon else ()
