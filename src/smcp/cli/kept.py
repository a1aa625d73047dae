"""What Workers keep, as it is named on the command line: TENANT/NAMESPACE or TENANT/BUCKET, and a KEY in it."""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click
from click import shell_completion

Completing = Callable[[click.Context, str], list[str]]
"""What may stand there, of what was typed so far."""
_TENANT: Final = re.compile(r"[a-z0-9-]{1,30}", re.ASCII)


class Place(NamedTuple):
    """A KV namespace or a bucket of a tenant."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


class PlaceType(click.ParamType[Place]):
    """TENANT/… on the command line."""

    def __init__(self, name: str, pattern: re.Pattern[str], example: str, completing: Completing) -> None:
        """`name` is what stands in the help, `pattern` what follows the tenant's slash."""
        self.name = name
        self._pattern = pattern
        self._example = example
        self._completing = completing

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        if isinstance(value, Place):
            return value
        tenant, _, name = str(value).partition("/")
        if _TENANT.fullmatch(tenant) is None or self._pattern.fullmatch(name) is None:
            self.fail(f"'{str(value)[:80]}' is not {self.name}, for example {self._example}.", param, ctx)
        return Place(tenant, name)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem[str]]:
        return [shell_completion.CompletionItem(name) for name in self._completing(ctx, incomplete)]


class KeyType(click.ParamType[str]):
    """A key: any text."""

    name = "KEY"

    def __init__(self, completing: Completing) -> None:
        self._completing = completing

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("A key is text in UTF-8.", param, ctx)
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem[str]]:
        return [shell_completion.CompletionItem(name) for name in self._completing(ctx, incomplete)]
