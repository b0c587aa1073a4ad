"""``rust-optuna dashboard``: serve optuna-dashboard for this storage, read-only."""

from __future__ import annotations

import click

from rust_optuna.cli.options import common_options, current_site, examples, terminate_as_interrupt


@click.command(epilog=examples("rust-optuna dashboard --port 8080"))
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The port to serve on; 0 picks a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to serve on; 0.0.0.0 means every address of this machine.",
)
@common_options
def dashboard(port: int, host: str) -> None:
    """Serve optuna-dashboard, read-only, until Ctrl-C or SIGTERM.

    It asks for no password: anyone who can reach the address can read every study. Keep it on 127.0.0.1, and reach it
    from another machine through `ssh -L 8080:127.0.0.1:8080 THIS-MACHINE`.
    """
    from rust_optuna.errors import RustOptunaError
    from rust_optuna.web.dashboard import serve

    terminate_as_interrupt()
    site = current_site()
    with site.open_to_show() as database:
        try:
            server = serve(database, site.store(database), port, host)
        except OSError as error:
            raise RustOptunaError(
                f"Port {port} of {host} cannot be used ({error.strerror}): choose another with --port or --host"
            ) from None
        click.echo(f"http://{host}:{server.server_port}/dashboard (Ctrl-C ends it)")
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                click.echo("Stopped.")
