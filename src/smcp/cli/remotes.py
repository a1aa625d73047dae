"""`smcp deploy https://…`: the order for a server that runs elsewhere, made from the command line."""

from collections.abc import Sequence

from smcp.cli import failures, parcels
from smcp.deploy import clientconfig, manifest, remotes
from smcp.deploy.sources import remote
from smcp.kernel import errors

SCHEMES = tuple(f"{scheme}://" for scheme in remote.SCHEMES)


def is_address(source: str) -> bool:
    """Is `source` meant to be a remote server's address?"""
    return source.lower().startswith(SCHEMES)


def address(text: str | None) -> str:
    """The address of the remote server that the manifest `text` is about; empty when it is about none."""
    try:
        asked = manifest.Manifest() if text is None else manifest.parse(text)
    except errors.SmcpError as error:
        raise _usage(error.public) from error
    return (asked.remote.url or asked.source) if asked.remote is not None else ""


def parcel(
    url: str, name: str | None, text: str | None, header_secrets: Sequence[str], wire: remote.Wire | None
) -> parcels.Parcel:
    """The order for the server at `url`, with the manifest `text`.

    What the platform would refuse is refused here already, so that nobody is asked for a secret in vain.
    """
    try:
        given = [remote.header_secret(one) for one in header_secrets]
        headers = dict(remote.headers(dict(given)))
    except ValueError as error:
        raise _usage(f"--header-secret takes SECRET or HEADER=SECRET: {error}.") from error
    if len(headers) != len(given):
        raise _usage("--header-secret names one header twice.")
    try:
        place = remote.parse(url)
        asked = manifest.parse(text or "")
        if headers or wire:
            if asked.remote is not None:
                raise _usage("--header-secret and --wire do not go with a manifest that has [remote]: it says them.")
            table = clientconfig.remote_table(headers, wire or "auto")
            text = "\n".join((text or "", *table, "")).lstrip("\n")
        settled = remotes.settled(place, manifest.parse(text or ""))
    except errors.SmcpError as error:
        raise _usage(error.public) from error
    called = name or settled.name or remote.server_name(place)
    if not called:
        raise _usage("This address has no name of its own: say with --name what the server is called.")
    needs = tuple(dict.fromkeys(settled.remote.headers.values())) if settled.remote is not None else ()
    return parcels.Parcel(label=place.url, name=called, source=place.url, manifest=text, needs=needs)


def _usage(text: str) -> failures.Failure:
    return failures.Failure("usage", text, exit_code=failures.Exit.USAGE)
