"""Any source: text becomes the value of its scheme, or an error that shows every form."""

import re
from typing import Final

import msgspec

from smcp.deploy.sources import npm, pypi, remote
from smcp.kernel import errors, ids

UPLOAD: Final = "upload"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Upload(msgspec.Struct, frozen=True):
    """Something that was given to the platform before: a folder or a bundle, named by the digest of its bytes."""

    digest: str
    """`sha256:` and 64 hexadecimal digits."""

    def __str__(self) -> str:
        return f"{UPLOAD}:{self.digest}"


Package = pypi.Pypi | npm.Npm | Upload
"""What is built."""
Source = Package | remote.Remote


def parse(text: str) -> Source:
    """The source in `text`. Raises `errors.InvalidParams`."""
    scheme, _, rest = text.partition(":")
    match scheme:
        case pypi.SCHEME:
            return pypi.parse(text)
        case npm.SCHEME:
            return npm.parse(text)
        case _ if scheme.lower() in remote.SCHEMES:
            return remote.parse(text)
        case "upload" if _DIGEST.fullmatch(rest) is not None:
            return Upload(rest)
        case _:
            raise errors.InvalidParams(
                "A source is written pypi:NAME, pypi:NAME==VERSION, npm:NAME, npm:NAME@VERSION, upload:sha256:DIGEST"
                f" (one name, one exact version), or https://HOST/PATH for a remote server: '{text[:100]}' is not."
            )


def server_name(source: Source) -> str:
    """What a server of `source` is called when nobody says; empty when the source has no name of its own."""
    match source:
        case pypi.Pypi():
            name = source.name
        case npm.Npm():
            name = re.sub(r"[^a-z0-9]+", "-", source.name.rpartition("/")[2].lower())
        case remote.Remote():
            name = remote.server_name(source)
        case Upload():
            return ""
    # A package's name may be longer than a server's.
    return name[: ids.MAX_SERVER].strip("-")
