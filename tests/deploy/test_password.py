import json
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from rust_optuna.errors import StorageError
from rust_optuna.fleet.ray.cluster import RayEngine
from rust_optuna.fleet.slot import Slot
from rust_optuna.paths import Home
from rust_optuna.storage.database import create_database, open_database
from rust_optuna.storage.url import parse_url
from tests import stand_ins
from tests.cli.test_main import invoke
from tests.deploy.server import NAME, ROLE, postgresql_with_password
from tests.studies import random_document, run_command, write_study

PASSWORD = "cor/rect@horse:bättery %41"
SERVER = "postgresql://rust@database/rust"


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "password"
    made.write_text(PASSWORD + "\n")
    return made


@pytest.fixture(scope="module")
def server():
    """The address of a database whose server wants a password."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'rust_optuna[postgresql]'")
    with postgresql_with_password(PASSWORD) as port:
        url = f"postgresql://{ROLE}@127.0.0.1:{port}/{NAME}"
        there = parse_url(url, Home.find("/")).set(password=PASSWORD)
        create_database(there, "storage/artifacts").close()
        yield url


# The file


@pytest.mark.parametrize("server_url", [SERVER, "mariadb://rust@database/rust"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_password_file_gives_the_password_that_the_url_leaves_out(tmp_path, server_url, encoding, end):
    (tmp_path / "password").write_bytes((PASSWORD + end).encode(encoding))
    url = parse_url(server_url, Home(tmp_path), "password")
    assert url.password == PASSWORD


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://rust:other@database/rust",
        f"{SERVER}?password=other",
        f"{SERVER}?passfile=/run/pgpass",
        "sqlite:///storage/rust_optuna.db",
    ],
)
def test_a_url_that_needs_no_password_stays_as_it_is(tmp_path, text):
    home = Home(tmp_path)
    assert parse_url(text, home, "nowhere") == parse_url(text, home)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "No such file"),
        (b"", "on one line"),
        (b"\n", "on one line"),
        (b"secret\nsecond\n", "on one line"),
        (b"secret\xff", "not UTF-8"),
    ],
)
def test_a_password_file_that_cannot_be_used_is_named_without_what_it_holds(tmp_path, content, what):
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(StorageError) as raised:
        parse_url(SERVER, Home(tmp_path), "password")
    assert str(tmp_path / "password") in str(raised.value)
    assert what in str(raised.value)
    assert "secret" not in str(raised.value)


# A server that asks for it


def test_workers_reach_a_server_by_the_file_whose_name_is_all_that_their_environment_tells(home, tmp_path, server):
    (tmp_path / "open").touch()
    (home.root / "secret").write_text(PASSWORD)
    study = write_study(home, random_document(2))
    run = ("search", study, "--objective", "tests.stand_ins:reporting", "--gpus", "none", "--workers", "1")
    variables = {"RUST_OPTUNA_PASSWORD_FILE": "secret", stand_ins.GATE: str(tmp_path)}
    searched = run_command(home, server, *run, **variables)
    assert searched.returncode == 0, searched.stdout + searched.stderr
    assert PASSWORD not in searched.stdout + searched.stderr
    (report,) = tmp_path.glob("*.environment")
    told = json.loads(report.read_text())
    assert told["RUST_OPTUNA_PASSWORD_FILE"] == str(home.root / "secret")
    assert sa.make_url(told["RUST_OPTUNA_STORAGE"]).password is None


@pytest.fixture
def handed(home, file, server, monkeypatch):
    """Call `worker start`, and return what its child would be told instead of starting it."""
    given = {}

    def detach(home, name, arguments, environment):
        given.update(environment)

    def supervise(database, home, names, workers, environment):
        given.update(environment)

    @contextmanager
    def ray_engine(url, choice, **options):
        yield RayEngine([], Slot)

    monkeypatch.setattr("rust_optuna.fleet.daemon.detach", detach)
    monkeypatch.setattr("rust_optuna.fleet.service.supervise", supervise)
    monkeypatch.setattr("rust_optuna.fleet.ray.cluster.ray_engine", ray_engine)

    def start(*options, storage=server):
        done = invoke("--home", home.root, "--storage", storage, "worker", "start", "--forever", *options)
        assert done.exit_code == 0, done.output
        return sa.make_url(given["RUST_OPTUNA_STORAGE"]).password, given.get("RUST_OPTUNA_PASSWORD_FILE")

    return start


@pytest.mark.parametrize("options", [(), ("--daemon",), ("--daemon", "--engine", "ray")])
def test_what_runs_on_this_machine_is_told_the_file(handed, file, options):
    assert handed("--gpus", "none", "--password-file", file, *options) == (None, str(file))


def test_workers_on_nodes_of_ray_are_handed_the_password(handed, file):
    assert handed("--engine", "ray", "--password-file", file) == (PASSWORD, None)


def test_a_password_of_the_url_stays_in_it_whatever_the_file_says(handed, server, file):
    url = parse_url(server, Home.find("/")).set(password=PASSWORD).render_as_string(hide_password=False)
    assert handed("--gpus", "none", "--password-file", "nowhere", storage=url) == (PASSWORD, None)


def test_the_option_wins_over_the_environment(home, file, server, monkeypatch):
    monkeypatch.setenv("RUST_OPTUNA_PASSWORD_FILE", "nowhere")
    where = ("--home", home.root, "--storage", server)
    refused = invoke(*where, "study", "list")
    assert (refused.exit_code, str(home.root / "nowhere") in refused.output) == (2, True)
    assert invoke(*where, "study", "list", "--password-file", file).exit_code == 0


def test_a_wrong_password_and_none_are_errors_that_show_no_password(home, tmp_path, server):
    (tmp_path / "wrong").write_text("wrong-horse")
    for given in ((), ("--password-file", tmp_path / "wrong")):
        done = invoke("--home", home.root, "--storage", server, "study", "list", *given)
        assert (done.exit_code, "password" in done.output, "wrong-horse" in done.output) == (1, True, False)


@pytest.mark.parametrize("by", ["url", "environment"])
def test_a_password_file_of_postgresql_itself_works_for_its_owner_alone(tmp_path, server, by, monkeypatch):
    passfile = tmp_path / "pgpass"
    escaped = PASSWORD.replace(":", "\\:")
    passfile.write_text(f"127.0.0.1:*:{NAME}:{ROLE}:{escaped}\n")
    passfile.chmod(0o600)
    if by == "environment":
        monkeypatch.setenv("PGPASSFILE", str(passfile))
    url = parse_url(f"{server}?passfile={passfile}" if by == "url" else server, Home(tmp_path))
    open_database(url, read_only=True).close()
    passfile.chmod(0o640)  # a Secret of Kubernetes is the group's, too
    with pytest.raises(StorageError, match="no password supplied"):
        open_database(url, read_only=True)
