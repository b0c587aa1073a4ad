"""``rust-optuna dashboard``: optuna-dashboard over this storage, for reading only."""

from __future__ import annotations

import click

from rust_optuna.cli.options import common_options, settings, terminate_as_interrupt


@click.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve on; 0.0.0.0 is all of them.")
@common_options
def dashboard(port: int, host: str) -> None:
    r"""Serve optuna-dashboard, for reading only, until Ctrl-C or SIGTERM.

    It asks for no password: whoever reaches the address reads every study. Leave it on 127.0.0.1, and reach it from
    elsewhere through `ssh -L 8080:127.0.0.1:8080`.

    \b
    Example:
      rust-optuna dashboard --port 8080
    """
    from rust_optuna.errors import RustOptunaError
    from rust_optuna.run.dashboard import serve

    terminate_as_interrupt()
    where = settings()
    with where.open_to_show() as database:
        try:
            server = serve(database, where.store(database), port, host)
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
