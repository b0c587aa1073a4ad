"""Where everything lies: the home, the database, the artifact store, and the file with the database's password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from rust_optuna.errors import PathError
from rust_optuna.paths import ARTIFACTS, Home
from rust_optuna.storage.backends import backend_of
from rust_optuna.storage.database import WORKER_PATIENCE_SECONDS, Database, open_database
from rust_optuna.storage.url import parse_url, sqlite_url

if TYPE_CHECKING:
    from rust_optuna.storage.artifacts import ArtifactStore


@dataclass(frozen=True)
class Site:
    """Where everything lies: what a command, its workers and their supervisor have in common.

    Args:
        home: root of relative paths.
        storage: the URL of the database as it was written; None for the one file below the home.
        given_artifacts: where out-of-fold scores go; None for where the database says, or the default if it is new.
        password_file: holds the database's password, where the URL names none.
        storage_given_by: what to call the URL in messages.
    """

    home: Home
    storage: str | None = None
    given_artifacts: str | None = None
    password_file: str | None = None
    storage_given_by: str = "--storage"

    @property
    def url(self) -> URL:
        """The database's URL."""
        return self._url(self.password_file)

    @property
    def password_path(self) -> Path | None:
        """The password file, where it is what the URL has its password from."""
        if self.password_file is None or self._url(None).password == self.url.password:
            return None
        return self.home.resolve(self.password_file)

    def _url(self, password_file: str | None) -> URL:
        if self.storage is None:
            return sqlite_url(self.home.database)
        return parse_url(self.storage, self.home, password_file, given_by=self.storage_given_by)

    @property
    def artifacts(self) -> str:
        """The artifact store of a new database."""
        return self.given_artifacts or ARTIFACTS

    def open_to_read(self) -> Database:
        """Open the database for reading; it is never created."""
        return open_database(self.url, read_only=True)

    def open_to_show(self) -> Database:
        """Open the database for the dashboard, which brings the studies' notes up to date where it may."""
        return open_database(self.url, read_only=not backend_of(self.url).may_write)

    def open_to_write(self) -> Database:
        """Open the database, which must exist, for writing."""
        return open_database(self.url)

    def open_to_work(self) -> Database:
        """Open the database, which must exist, for a worker, which outlives its restarts."""
        return open_database(self.url, patience=WORKER_PATIENCE_SECONDS)

    def absolute(self, path: Path | None) -> Path | None:
        """Return a path below the home; None stays None."""
        return None if path is None else self.home.resolve(path)

    def data_root(self, given: Path | None) -> Path | None:
        """Return the folder that ``--data-root`` names, below the home; None where it is not given.

        Raises:
            PathError: there is no such folder. It is named even where no film would be looked for.
        """
        root = self.absolute(given)
        if root is not None and not root.is_dir():
            raise PathError(f"--data-root: there is no folder {root}")
        return root

    def store(self, database: Database) -> ArtifactStore:
        """Open the artifact store: the one given, else the one recorded in the database."""
        from rust_optuna.storage.artifacts import open_store  # loads Optuna, which most commands do without

        return open_store(self.given_artifacts or database.artifacts(), self.home)

    def own_store(self, database: Database) -> ArtifactStore:
        """Open the artifact store for those who change it; one that is not this storage's is refused."""
        from rust_optuna.storage.artifacts import check_owner

        store = self.store(database)
        check_owner(store, database)
        return store

    def environment(self, database: Database, *, password_file: bool = True) -> dict[str, str]:
        """Return the variables by which a child process finds home, storage and artifacts.

        Args:
            database: this site's.
            password_file: let the child read the password where this process did, so that no variable holds it; a
                child on another machine, which need not have that file, is handed the password.
        """
        url, path = database.url, self.password_path if password_file else None
        if path is not None:
            url = url._replace(password=None)  # which URL.set takes for "as it was"
        return {
            "RUST_OPTUNA_HOME": str(self.home.root),
            "RUST_OPTUNA_STORAGE": url.render_as_string(hide_password=False),
            "RUST_OPTUNA_ARTIFACTS": self.given_artifacts or database.artifacts(),
            # Its log is read as UTF-8, whatever this terminal is.
            "PYTHONIOENCODING": "utf-8",
            **({"RUST_OPTUNA_PASSWORD_FILE": str(path)} if path is not None else {}),
        }
