"""Fixtures for every layer: a home with films, and a database on each back end."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rust_optuna.learn.runtime import load_tensorflow
from rust_optuna.paths import Home
from rust_optuna.storage.database import Database, create_database, open_database
from rust_optuna.storage.url import parse_url
from tests import mariadb as servers
from tests.compiled import compile_once
from tests.data.films import make_manifest
from tests.s3 import s3_server

POSTGRESQL = "RUST_OPTUNA_TEST_POSTGRESQL"
BACKENDS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "STORAGE", "PASSWORD_FILE", "ARTIFACTS", "WORKER_ID", "SUPERVISOR"):
        monkeypatch.delenv(f"RUST_OPTUNA_{name}", raising=False)


ON_ONE_DATABASE = {
    "test_both_regimes_are_searched_by_one_command_and_once": "sqlite",
    "test_eight_processes_run_both_full_regimes_once": "postgresql",
    "test_a_node_killed_in_mid_search_costs_no_point": "postgresql",
}
"""Rounds that `make test` plays on one database and `make test-long` on every one."""
SERVERS = frozenset({"postgresql", "mariadb"})
REPEATED = {
    "tests/cli/": SERVERS,
    "tests/run/": {"mariadb"},
    "tests/search/test_creation": {"mariadb"},
    "tests/search/test_drawing": {"mariadb"},
    "tests/search/test_export": {"mariadb"},
    "tests/search/test_foreign": {"mariadb"},
    "tests/search/test_mirror": {"mariadb"},
    "tests/search/test_pins": SERVERS,
    "tests/search/test_preparation": {"mariadb"},
    "tests/search/test_results": {"mariadb"},
    "tests/search/test_studies": {"mariadb"},
    "tests/web/": {"mariadb"},
    "tests/worker/test_serving": SERVERS,
    "tests/worker/test_worker": {"mariadb"},
}
"""Tests of what lies above the ledger, with the databases on which `make test-long` alone repeats them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as long what repeats on one database what is tested on another."""
    for item in items:
        given: dict[str, Any] = (getattr(item, "callspec", None) and item.callspec.params) or {}
        database = next((given[name] for name in ("database", "database_url", "backend") if name in given), None)
        repeated = next((found for start, found in REPEATED.items() if item.nodeid.startswith(start)), frozenset())
        kept = ON_ONE_DATABASE.get(item.name.partition("[")[0], database)
        if database is not None and (database in repeated or database != kept):
            item.add_marker(pytest.mark.long)


def pytest_collection_finish() -> None:
    """Keep what is there for good out of garbage collections, which take a tenth of the tests' time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set TensorFlow up as commands do before any fixture computes with it, whichever test is a process's first."""
    if item.get_closest_marker("tensorflow") and importlib.util.find_spec("tensorflow"):
        first = load_tensorflow.cache_info().currsize == 0
        load_tensorflow()
        if first:
            gc.freeze()


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile each backbone once for all tests of a process."""
    compile_once(monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a split manifest of small films: 10 patients to develop on, 2 held out."""
    root = tmp_path / "home"
    make_manifest(root)
    return Home(root.resolve())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'storage' / 'test.db'}"


@contextmanager
def new_postgresql(template: str = "template0", options: str = "") -> Iterator[str]:
    """Yield the URL of a new PostgreSQL database, dropped in the end."""
    given = os.environ.get(POSTGRESQL)
    if not given:
        pytest.skip(f"{POSTGRESQL} is not set: an SQLAlchemy URL of a role that may create databases")
    server = sa.make_url(given).set(drivername="postgresql+psycopg")
    name = f"rust_optuna_test_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template} {options}"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def make_tables(url: str) -> None:
    create_database(parse_url(url, Home(Path.cwd())), "storage/artifacts").close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with empty tables, to be copied: making them takes a while."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_template() -> Iterator[str]:
    """The name of a PostgreSQL database with empty tables, to be copied."""
    with new_postgresql() as url:
        make_tables(url)
        yield str(sa.make_url(url).database)


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """The URL of a new PostgreSQL database, dropped in the end."""
    with new_postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_pool() -> Iterator[servers.Reused]:
    """One MariaDB database, emptied for each test: making its tables takes a second."""
    with servers.new_database() as url:
        make_tables(url)
        yield servers.Reused(url)


@pytest.fixture
def mariadb_url() -> Iterator[str]:
    """The URL of a new MariaDB database, dropped in the end."""
    with servers.new_database() as url:
        yield url


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that holds nothing yet, on each back end."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def sqlite(sqlite_template: Path, sqlite_url: str, home: Home) -> Iterator[Database]:
    """A database with empty tables, on SQLite alone: for what does not depend on the back end."""
    url = parse_url(sqlite_url, home)
    Path(str(url.database)).parent.mkdir()
    shutil.copy(sqlite_template, str(url.database))
    with open_database(url) as database:
        yield database


@pytest.fixture
def postgresql(postgresql_template: str, home: Home) -> Iterator[Database]:
    """A database with empty tables, on PostgreSQL alone."""
    with new_postgresql(postgresql_template) as url, open_database(parse_url(url, home)) as database:
        yield database


@pytest.fixture
def mariadb(mariadb_pool: servers.Reused, home: Home) -> Iterator[Database]:
    """A database with empty tables, on MariaDB alone."""
    mariadb_pool.empty()
    with open_database(parse_url(mariadb_pool.url, home)) as database:
        yield database


@pytest.fixture(params=BACKENDS)
def database(request: pytest.FixtureRequest) -> Database:
    """A database with empty tables, on each back end."""
    made: Database = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of an S3 with one empty bucket, which this process and its children use."""
    with s3_server(monkeypatch) as endpoint:
        yield endpoint


class Children:
    """Processes of a test, forked from a clean server; none outlives the test."""

    def __init__(self) -> None:
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["hypothesis.stateful", "pytest", "tests.studies"])
        self.processes: list[BaseProcess] = []

    def start(self, function: Callable[..., Any], *arguments: Any) -> BaseProcess:
        """Call a module-level function in a process of its own."""
        process = self.context.Process(target=function, args=arguments, daemon=True)
        process.start()
        self.processes.append(process)
        return process

    def join(self, seconds: float = 60) -> list[int | None]:
        """Wait for all processes, and return their exit codes: None for one that hangs."""
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
            process.join()


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    try:
        yield made
    finally:
        made.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once, with a count, why tests were not run."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.items():
        terminalreporter.write_line(f"NOT RUN ({count} tests): {reason}")
