"""`smcp up`: a whole platform in the foreground, with something to try in it."""

import pathlib

import click

from smcp.cli import session


@click.command("up")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.  [default: 8080]")
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--tls-cert", metavar="FILE", help="Speak HTTPS with this certificate (PEM, issuers behind it).")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key (PEM, mode 0600).")
@click.option("--data", metavar="DIR", help="Where everything is kept.")
@click.option("--demo/--no-demo", default=True, help="Host demo servers for two demo tenants (at the first start).")
@click.option("--new-operator", is_flag=True, help="Make another operator key: for when the first one is lost.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="The platform's settings file.")
@session.local
def up_command(
    cli: session.Session,
    port: int | None,
    host: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    data: str | None,
    config: pathlib.Path | None,
    *,
    demo: bool,
    new_operator: bool,
) -> None:
    """Start SMCP here and stay in the foreground; Ctrl-C stops everything.

    The first start makes the operator's credential, the tenant 'acme' and its server 'time', and saves the
    keys as CLI profiles; five more servers, of 'acme' and of 'globex', follow while it serves. With --json,
    one object is printed once the platform is ready.
    """
    import asyncio

    import uvloop

    from smcp.cli import datadir, foreground

    wanted = datadir.load_settings(
        config,
        {
            "gateway": {"port": port, "host": host},
            "tls": {"cert_file": tls_cert, "key_file": tls_key},
            "platform": {"data_dir": data},
        },
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(foreground.Foreground(cli, wanted, demo=demo, new_operator=new_operator).run())
