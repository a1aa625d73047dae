"""Deployments of servers that run elsewhere: what is asked for, settled once, and the digest of what was settled.

There is nothing to build, so what makes such a deployment immutable is its description: the address in its one
spelling, the headers with the names of their secrets, and how it speaks. Values are no part of it: a new value of a
secret is no new deployment.
"""

import hashlib
from typing import Final

import msgspec

from smcp.deploy import manifest
from smcp.deploy.sources import remote
from smcp.kernel import errors

_NOT_THERE: Final = {
    "command": "the platform starts nothing",
    "args": "the platform starts nothing",
    "env": "it has no environment here; what it is told goes into headers",
    "secrets": "its secrets are those that [remote] headers name",
    "config": "that is for bundles",
    "egress": "it runs outside of the platform's walls, which say nothing about what it reaches",
    "volume": "it keeps its own files",
    "scale": "no copies of it run here",
}
"""Members of a manifest that mean nothing for such a server, and why."""


def settled(source: remote.Remote, asked: manifest.Manifest) -> manifest.Manifest:
    """The manifest as it is recorded: with the address and the headers in their one form.

    Raises `errors.InvalidParams` for what a remote server does not have, and for two addresses.
    """
    usual = manifest.Manifest()
    for name, why in _NOT_THERE.items():
        if getattr(asked, name) != getattr(usual, name):
            raise errors.InvalidParams(f"The manifest has '{name}', and this is a remote server: {why}. Leave it out.")
    if asked.runtime == "gvisor":
        raise errors.InvalidParams(
            'The manifest has runtime = "gvisor", and this is a remote server: no walls stand around it. Leave it out.'
        )
    said = asked.remote or manifest.Remote()
    if said.url and remote.parse(said.url) != source:
        raise errors.InvalidParams(
            f"The manifest's [remote] url is not the address that was asked for, {source}. Make them the same."
        )
    headers = dict(remote.headers(said.headers))
    settled = manifest.Remote(url=source.url, headers=headers, wire=said.wire)
    return msgspec.structs.replace(asked, remote=settled, source="")


def digest(of: manifest.Remote) -> str:
    """`sha256:…` of a description that was settled. Header names count in lower case, as they do on the wire."""
    told = {
        "headers": sorted([name.lower(), secret] for name, secret in of.headers.items()),
        "url": of.url,
        "wire": of.wire,
    }
    return f"sha256:{hashlib.sha256(msgspec.json.encode(told, order='sorted')).hexdigest()}"
