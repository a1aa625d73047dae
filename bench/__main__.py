"""`python -m bench`: starts the real platform, measures it beside its peers, and prints tables.

The server's side stands on one core, the load on another. Every stage of the pipeline runs; limits are raised by
settings. Loopback only, but for the packages that are fetched to be started.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

# The platform under test is started as the tests start it.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from bench import (
    bindings,
    calls,
    cores,
    guest,
    profiled,
    report,
    run,
    sandbox,
    sessions,
    sockets,
    tokens,
    translation,
    wire,
    workers,
)
from smcp.kernel import errors

FULL = run.Plan(
    calls.Plan((64, 1, 16), 3, 0.3, 1.5),
    sessions.Plan((1, 10, 100, 1000), 0.3, 3.0, 51, 5, 1000, 20.0),
    translation.Plan(3, 0.3, 1.5, 1000, 20),
    sandbox.Sizes(starts=60, calls=10_000, colds=7, requests=60),
    sockets.Plan(9, 4_000),
    bindings.Plan(5, 1_000),
    workers.Plan(calls.Plan((16, 64), 5, 0.5, 3.0), starts=101, running=20, stopped=100),
    tokens.Plan(9, 20_000),
)
QUICK = run.Plan(
    calls.Plan((64, 1), 1, 0.2, 0.8),
    sessions.Plan((1, 100), 0.2, 0.8, 11, 2, 50, 2.0),
    translation.Plan(1, 0.2, 0.5, 1000, 4),
    sandbox.Sizes(starts=15, calls=2_000, colds=3, requests=30),
    sockets.Plan(3, 1_000),
    bindings.Plan(2, 200),
    workers.Plan(calls.Plan((16, 64), 1, 0.3, 1.0), starts=11, running=4, stopped=10),
    tokens.Plan(2, 2_000),
)


class _Options(NamedTuple):
    json: bool
    quick: bool
    only: str | None
    peers: bool
    profile: bool
    legacy: bool
    native: bool


def _options() -> _Options:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a call through SMCP costs.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="one short round, no peers: a smoke test")
    parser.add_argument(
        "--only",
        choices=run.PARTS,
        help="calls, legacy sessions, two eras, the sandbox, calls over a unix socket, what Workers read, Workers,"
        " credentials",
    )
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        help="measure other gateways beside it, installed below ~/.cache (default: yes, but not with --quick)",
    )
    parser.add_argument("--profile", action="store_true", help="only print where the platform's time goes under load")
    parser.add_argument("--legacy", action="store_true", help="profile the legacy wire instead of the modern one")
    parser.add_argument("--native", action="store_true", help="profile native frames too: slower, and more to see")
    found = parser.parse_args()
    peers: bool = not found.quick if found.peers is None else found.peers
    return _Options(found.json, found.quick, found.only, peers, found.profile, found.legacy, found.native)


def _profile(directory: pathlib.Path, tell: Callable[[str], None], *, legacy: bool, native: bool) -> None:
    """Print where the platform's time goes under 64 connections, on one wire."""
    where = cores.choose()
    platform = guest.prepare(directory)
    os.sched_setaffinity(0, {where.load})
    tell("starting, and deploying the echo server")
    try:
        roles = guest.started(platform, where)
        key = guest.settle(platform).caller
        endpoint = guest.endpoint(platform, key, guest.SHARED if legacy else guest.SERVER)
        client = wire.Client(endpoint)
        if legacy:
            target = wire.legacy(endpoint, [client.open_session() for _ in range(calls.CONNECTIONS)])
        else:
            client.echo(1)
            target = wire.modern(endpoint)
        client.close()
        tell("sampling under load")
        found = profiled.profile(roles.platform, target, calls.CONNECTIONS, 8.0, native=native)
    finally:
        platform.stop()
    profiled.show(f"SMCP, {wire.LEGACY if legacy else wire.MODERN}, {calls.CONNECTIONS} connections", found)


def main() -> int:
    """Run, print, and return 0; 1 with the reason when an answer was wrong."""
    options = _options()

    def tell(text: str) -> None:
        print(f"  {text} …", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="smcp-bench-") as directory:
        try:
            if options.profile:
                _profile(pathlib.Path(directory), tell, legacy=options.legacy, native=options.native)
                return 0
            parts = (options.only,) if options.only else run.PARTS
            plan = QUICK if options.quick else FULL
            found = run.Bench(pathlib.Path(directory), plan, parts, tell, peers=options.peers).run()
        except (RuntimeError, AssertionError, errors.SmcpError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(found.as_data(), indent=2))
    else:
        report.show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
