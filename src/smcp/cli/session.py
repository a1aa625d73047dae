"""What every command starts from: how to print, which profile to use, and how to ask before destroying."""

import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

import click
from click import shell_completion

from smcp.cli import client, complete, failures, output, profiles

_P = ParamSpec("_P")
_R = TypeVar("_R")
_TARGET = re.compile(r"(?P<tenant>[a-z0-9-]{1,30})/(?P<server>[a-z0-9-]{1,31})", re.ASCII)

PLATFORM: Final = "platform"
FOR_GOOD: Final = "This can't be undone."


class Target(NamedTuple):
    """TENANT/SERVER."""

    tenant: str
    server: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.server}"


class TargetType(click.ParamType[Target]):
    """TENANT/SERVER on the command line."""

    name = "TENANT/SERVER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        match = _TARGET.fullmatch(str(value))
        if match is None:
            self.fail(f"'{str(value)[:80]}' is not TENANT/SERVER, for example acme/time.", param, ctx)
        return Target(match["tenant"], match["server"])

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem[str]]:
        return [shell_completion.CompletionItem(name) for name in complete.targets(ctx, incomplete)]


class Session:
    """One invocation of one command."""

    def __init__(self, *, as_json: bool, profile: str | None = None, ca_file: str | None = None) -> None:
        self.out = output.Output(as_json=as_json)
        self.profile = profile
        self.ca_file = ca_file or os.environ.get("SMCP_CA_FILE", "")
        self.profiles = profiles.Profiles(profiles.directory(os.environ))

    def connect(self, tenant: str | None = None) -> client.Client:
        """A client for a command about `tenant` (None: about the platform)."""
        chosen = profiles.choose(self.profiles, os.environ, named=self.profile, tenant=tenant)
        self.warn_plain(chosen.url)
        return client.Client(chosen, known=self.profiles, ca_file=self.ca_file)

    def warn_plain(self, url: str) -> None:
        """Say so where a credential will travel in the clear."""
        if url.startswith("http://") and not client.is_loopback(url):
            self.out.note(f"Warning: {url} is plain HTTP; whoever is on the way can read the credential. Use https://.")

    def tenant(self, named: str | None, api: client.Client) -> str:
        """The tenant a command is about: as named, else the key's own."""
        if named:
            return named
        if api.tenant and api.tenant != PLATFORM:
            return api.tenant
        raise failures.Failure(
            "usage",
            "Say which tenant: --tenant NAME.",
            hint="'smcp tenant list' shows them.",
            exit_code=failures.Exit.USAGE,
        )

    def goes_on(self, what: str, warning: str = "", *, yes: bool, dry_run: bool, shown: client.Json) -> bool:
        """Whether `what` ("delete …") is done now: not in a dry run, which only tells it; else as `confirm`."""
        if not dry_run:
            self.confirm(f"{what[0].upper()}{what[1:]}?{' ' if warning else ''}{warning}", yes=yes)
        elif self.out.as_json:
            self.out.json({"dry_run": True, **shown})
        else:
            self.out.text(f"Would {what}.")
        return not dry_run

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only after a yes: from `--yes`, or typed at a terminal."""
        if yes:
            return
        if self.out.as_json or not sys.stdin.isatty():
            raise failures.Failure(
                "confirmation_needed",
                f"{question} Nobody can be asked here, so nothing was done.",
                hint="Add --yes to go on, or --dry-run to see what would happen.",
                exit_code=failures.Exit.USAGE,
            )
        if not click.confirm(output.safe(question), err=True):
            raise failures.Failure("declined", "Nothing was done.", exit_code=failures.Exit.FAILED)


def _json_option(function: Callable[..., _R]) -> Callable[..., _R]:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on stdout (errors as JSON on stderr) instead of text."
    )(function)


def local(function: Callable[Concatenate[Session, _P], _R]) -> Callable[..., _R]:
    """A command about this machine: `--json` only."""

    @functools.wraps(function)
    def run(*args: Any, as_json: bool, **kwargs: Any) -> _R:
        return function(Session(as_json=as_json), *args, **kwargs)

    return _json_option(run)


def remote(function: Callable[Concatenate[Session, _P], _R]) -> Callable[..., _R]:
    """A command that asks a platform: `--json`, `--profile` and `--cacert`."""

    @functools.wraps(function)
    def run(*args: Any, as_json: bool, profile: str | None, cacert: str | None, **kwargs: Any) -> _R:
        return function(Session(as_json=as_json, profile=profile, ca_file=cacert), *args, **kwargs)

    trust = click.option(
        "--cacert", metavar="FILE", help="Trust these issuers of certificates (PEM) instead of the machine's."
    )

    option = click.option(
        "--profile",
        metavar="NAME",
        shell_complete=complete.profile_names,
        help="Use this profile instead of the one that fits.",
    )
    return _json_option(option(trust(run)))


def tenant_option(*, required: bool = False) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """`--tenant`."""
    return click.option(
        "--tenant", "-t", metavar="TENANT", required=required, shell_complete=complete.tenants,
        help="The tenant; by default the one of the key in use.",
    )  # fmt: skip


def destructive(function: Callable[..., _R]) -> Callable[..., _R]:
    """`--yes` and `--dry-run`."""
    function = click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")(function)
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(function)
