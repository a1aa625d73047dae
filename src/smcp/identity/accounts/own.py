"""How a person signs in, as they may see it: what there is, and nothing of what with."""

from typing import NamedTuple

from smcp.identity.accounts import ways


class Key(NamedTuple):
    """A passkey as its owner sees it."""

    id: str
    name: str
    rp: str
    created: float
    used: float | None


class Own(NamedTuple):
    """How a person signs in, as they see it."""

    password: bool
    app: bool
    recovery_codes: int
    """How many are left."""
    passkeys: tuple[Key, ...]


def shown(mine: ways.Ways) -> Own:
    """What its owner sees of `mine`."""
    keys = tuple(Key(one.id, one.name, one.rp, one.created, one.used) for one in mine.passkeys)
    return Own(bool(mine.password), bool(mine.totp), len(mine.recovery), keys)
