"""``rust-optuna dashboard``: optuna-dashboard over this storage, for reading only."""

from __future__ import annotations

import click

from rust_optuna.cli.options import common_options, settings


@click.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@common_options
def dashboard(port: int) -> None:
    r"""Serve optuna-dashboard on 127.0.0.1, for reading only, until Ctrl-C.

    \b
    Example:
      rust-optuna dashboard --port 8080
    """
    from rust_optuna.errors import RustOptunaError
    from rust_optuna.run.dashboard import serve

    where = settings()
    with where.open_to_write() as database:
        try:
            server = serve(database, where.store(database), port)
        except OSError as error:
            raise RustOptunaError(
                f"Port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None
        click.echo(f"http://127.0.0.1:{server.server_port}/dashboard (Ctrl-C ends it)")
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                click.echo("Stopped.")
