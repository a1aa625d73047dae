"""Which files the pinned programs are: the one place to change for a new version (`scripts/pins` prints what to write).

A package is named, and no address: where packages come from is the operator's choice, and npm's configuration says it.
What it must contain is not a choice: `sha512` is that of the package's tarball, as npm's registries state it, and
`sha256` and `size` are those of the program inside.
"""

import datetime
from collections.abc import Mapping
from typing import Final

import msgspec


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """A program for one kind of machine."""

    package: str
    """npm's name for the package."""
    member: str
    """Where the program is inside the package's tarball."""
    sha512: str
    """Of the tarball, base64."""
    sha256: str
    """Of the program, hex."""
    size: int
    """Of the program, bytes."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One pinned program."""

    name: str
    version: str
    released: datetime.date
    stale_days: int
    """From this age on, in days, an operator is told. A V8 without fixes is a danger; an old bundler is not."""
    builds: Mapping[str, Build]
    """By the machine's kind, as `uname -m` says it."""

    @property
    def label(self) -> str:
        """Such as `workerd-1.20261117.1`. Recorded in deployments."""
        return f"{self.name}-{self.version}"


WORKERD: Final = Program(
    name="workerd",
    version="1.20261117.1",
    released=datetime.date(2026, 11, 17),
    stale_days=60,
    builds={
        "x86_64": Build(
            package="@cloudflare/workerd-linux-64",
            member="package/bin/workerd",
            sha512="gZLA8X11m/luZwn+YA3+mDu61vdxNJzpksP/QZqjydKTQ+VUCulsK5gtn9Bqst1p3KJu2kafQpJ1nDQv4B23jA==",
            sha256="2c950df972c039779162ed3803db9fe3f407b70709db2c9ef5a523b36cac4583",
            size=162_281_568,
        ),
        "aarch64": Build(
            package="@cloudflare/workerd-linux-arm64",
            member="package/bin/workerd",
            sha512="gxWngFojq41ULKNKb9rpWYvKotN5hT2I/xot+Bpy31cXzrwcTgtDLSMb2t75sW5BJxH7hihFvikgYb577kB3Zg==",
            sha256="37007f28648931403563dbb75c6c784c3be0755d3a8793877c0d7ef33d116b7c",
            size=165_681_672,
        ),
    },
)

ESBUILD: Final = Program(
    name="esbuild",
    version="0.28.2",
    released=datetime.date(2026, 8, 8),
    stale_days=365,
    builds={
        "x86_64": Build(
            package="@esbuild/linux-x64",
            member="package/bin/esbuild",
            sha512="4xTZr1FUmSoQW4XIWmit3tzQrUTZM+N3P0XV8xROKYF50XfI7xeO90+1bZvNwxIufQ9hDQVRJH5YhgPVF8A/HQ==",
            sha256="e1698a3d5c6c0798fee4fd3b5cc816651f460c63d390a7a26ea4beb0b1884100",
            size=11_427_952,
        ),
        "aarch64": Build(
            package="@esbuild/linux-arm64",
            member="package/bin/esbuild",
            sha512="pW4AC0P3it8c7do9MVM4p51FzHzdM/TZrerurgRcHJ2WTa1VQ1CIq18xncfpBJw4ojkiZZrKW2yIBWBP92j6Ug==",
            sha256="90bd269553d258e80b19e3ccab4f98f0831f87442a2f056510ce24fd1b425fc2",
            size=10_289_264,
        ),
    },
)

PROGRAMS: Final = (WORKERD, ESBUILD)
