"""The locations that a command works with: home, database, artifact store and password file."""

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
    """The locations that a command, its workers and their supervisor share.

    Args:
        home: the root of relative paths.
        storage: the URL of the database as the user wrote it; None for the SQLite file below the home.
        given_artifacts: the artifact store that the user named; None for the one recorded in the database, or for the
            default where the database is new.
        password_file: the file that holds the database's password, used where the URL has none.
        storage_given_by: the option or variable that the URL came from, for messages.
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
        """The password file, or None where the URL's password did not come from it."""
        if self.password_file is None or self._url(None).password == self.url.password:
            return None
        return self.home.resolve(self.password_file)

    def _url(self, password_file: str | None) -> URL:
        if self.storage is None:
            return sqlite_url(self.home.database)
        return parse_url(self.storage, self.home, password_file, given_by=self.storage_given_by)

    @property
    def artifacts(self) -> str:
        """The location of the artifact store that a new database would record."""
        return self.given_artifacts or ARTIFACTS

    def open_to_read(self) -> Database:
        """Open the database, which must exist, for reading."""
        return open_database(self.url, read_only=True)

    def open_to_show(self) -> Database:
        """Open the database for the dashboard, which updates the studies' notes if it has permission to write."""
        return open_database(self.url, read_only=not backend_of(self.url).may_write)

    def open_to_write(self) -> Database:
        """Open the database, which must exist, for writing."""
        return open_database(self.url)

    def open_to_work(self) -> Database:
        """Open the database, which must exist, for a worker, with the patience to outlast a restart of the server."""
        return open_database(self.url, patience=WORKER_PATIENCE_SECONDS)

    def absolute(self, path: Path | None) -> Path | None:
        """Resolve a path against the home; None stays None."""
        return None if path is None else self.home.resolve(path)

    def data_root(self, option: Path | None) -> Path | None:
        """Resolve the folder that ``--data-root`` names against the home; None where the option is absent.

        Raises:
            PathError: there is no such folder, even if no film would be looked for in it.
        """
        root = self.absolute(option)
        if root is not None and not root.is_dir():
            raise PathError(f"--data-root: there is no folder {root}")
        return root

    def store(self, database: Database) -> ArtifactStore:
        """Open the artifact store that the user named, or else the one recorded in the database."""
        from rust_optuna.storage.artifacts import open_store  # imports Optuna, which most commands do without

        return open_store(self.given_artifacts or database.artifacts(), self.home)

    def own_store(self, database: Database) -> ArtifactStore:
        """Open the artifact store to change it.

        Raises:
            WrongStoreError: the store belongs to another storage, or to none.
        """
        from rust_optuna.storage.artifacts import check_owner

        store = self.store(database)
        check_owner(store, database)
        return store

    def environment(self, database: Database, *, password_file: bool = True) -> dict[str, str]:
        """Return the environment variables by which a child process finds home, storage and artifacts.

        Args:
            database: the open database of this site.
            password_file: whether the child reads the password from the file that this process read, so that no
                variable holds it. A child on another machine may lack that file, and gets the password in its URL.
        """
        url, path = database.url, self.password_path if password_file else None
        if path is not None:
            url = url._replace(password=None)  # URL.set would take None for "leave it as it is"
        return {
            "RUST_OPTUNA_HOME": str(self.home.root),
            "RUST_OPTUNA_STORAGE": url.render_as_string(hide_password=False),
            "RUST_OPTUNA_ARTIFACTS": self.given_artifacts or database.artifacts(),
            # The child's log is read as UTF-8, whatever this terminal's encoding is.
            "PYTHONIOENCODING": "utf-8",
            **({"RUST_OPTUNA_PASSWORD_FILE": str(path)} if path is not None else {}),
        }
