import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.artifacts.exceptions import ArtifactNotFound

from rust_optuna.errors import DataError, MissingExtraError, StorageError
from rust_optuna.search.creation import delete_study
from rust_optuna.storage import s3 as s3_module
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import TOKEN, adopt, check_owner, download, open_store, remove
from rust_optuna.storage.database import create_database
from rust_optuna.storage.url import parse_url
from tests.s3 import BUCKET, SECRET, keys
from tests.studies import REPOSITORY, make_study, random_document, run_command, write_study


@pytest.fixture(params=["folder", "s3", "s3 without a prefix"])
def store(request, home):
    if request.param == "folder":
        return open_store("storage/artifacts", home)
    request.getfixturevalue("s3")
    return open_store(f"s3://{BUCKET}/a/prefix/" if request.param == "s3" else f"s3://{BUCKET}", home)


def token_of(database):
    return database.transact(lambda c: c.execute(sa.select(tables.schema.c.token)).scalar_one())


def another(home):
    return create_database(parse_url("sqlite:///storage/another.db", home), "storage/artifacts")


# Any store


def test_what_was_stored_comes_back_until_it_is_removed(store, tmp_path):
    store.write("scores", io.BytesIO(b"\x00" * 100_000 + b"end"))
    assert store.open_reader("scores").read() == b"\x00" * 100_000 + b"end"
    store.write("scores", io.BytesIO(b"new"))
    download(store, "scores", tmp_path / "out" / "scores.npz")
    assert (tmp_path / "out" / "scores.npz").read_bytes() == b"new"
    remove(store, ["scores", "never there"])
    with pytest.raises(ArtifactNotFound):
        store.open_reader("scores")
    with pytest.raises(DataError, match=r"scores is not in .*--artifacts") as raised:
        download(store, "scores", tmp_path / "gone.npz")
    assert str(store) in str(raised.value)
    assert not (tmp_path / "gone.npz").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", ""])
def test_nothing_outside_a_folder_is_an_artifact(home, name):
    store = open_store("storage/artifacts", home)
    store.write("scores", io.BytesIO(b"scores"))
    (store.folder.parent / "secret").write_text("secret")
    with pytest.raises(ArtifactNotFound):
        store.open_reader(name)
    with pytest.raises(ArtifactNotFound):
        store.remove(name)
    assert (store.folder.parent / "secret").read_text() == "secret"


def test_a_worker_starts_without_loading_boto3():
    code = "import sys, rust_optuna.worker.worker; print('boto3' in sys.modules, 'optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_store_becomes_a_storages_and_stays_its(store, sqlite, home):
    with pytest.raises(StorageError, match=f"is not the artifact store of .*holds no {TOKEN}.*adopt-artifacts"):
        check_owner(store, sqlite)
    for _ in range(2):
        adopt(store, sqlite)
    check_owner(store, sqlite)
    assert store.open_reader(TOKEN).read().decode() == token_of(sqlite)
    with another(home) as other:
        with pytest.raises(StorageError, match="it is another storage's") as raised:
            check_owner(store, other)
        assert str(store) in str(raised.value)
        assert "another.db" in str(raised.value)
        with pytest.raises(StorageError, match="holds the artifacts of another storage"):
            adopt(store, other)
    check_owner(store, sqlite)


def test_the_first_study_makes_the_store_the_storages(sqlite, home):
    store = open_store("storage/artifacts", home)
    first = make_study(sqlite, home, random_document(2, name="one"))
    check_owner(store, sqlite)
    store.remove(TOKEN)
    make_study(sqlite, home, random_document(2, name="two"))
    with pytest.raises(StorageError, match="holds no"):  # somebody else's empty folder, for all we know
        check_owner(store, sqlite)
    delete_study(sqlite, first.name, store)


def test_a_study_is_not_created_where_the_store_is_anothers(sqlite, home):
    make_study(sqlite, home)
    with another(home) as other, pytest.raises(StorageError, match="another storage"):
        make_study(other, home)


# S3


@pytest.mark.parametrize(
    "location",
    ["s3://", "s3:///prefix", f"s3://key:{SECRET}@bucket/x", f"s3://bucket/x?secret={SECRET}", "s3://Bucket"],
)
def test_a_malformed_location_is_refused_without_what_it_may_hide(location, home):
    with pytest.raises(StorageError, match=r"s3://BUCKET/PREFIX.*AWS_ENDPOINT_URL") as raised:
        open_store(location, home)
    assert SECRET not in str(raised.value)


def test_objects_lie_below_the_prefix(s3, home):
    store = open_store(f"s3://{BUCKET}/a//b/", home)
    store.write("scores", io.BytesIO(b"1"))
    assert keys() == ["a//b/scores"]
    assert str(store) == f"s3://{BUCKET}/a//b"


def test_a_bucket_that_is_not_there_is_named(s3, home, tmp_path):
    store = open_store("s3://no-such-bucket/x", home)
    for attempt in (
        lambda: store.open_reader("scores"),
        lambda: download(store, "scores", tmp_path / "scores"),
        lambda: store.write("scores", io.BytesIO(b"1")),
        lambda: store.remove("scores"),
    ):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x.*bucket") as raised:
            attempt()
        assert SECRET not in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_an_s3_that_does_not_answer_is_one_error_with_the_buckets_name(s3, home, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setattr(s3_module, "TRIES", 1)
        with pytest.raises(StorageError, match=f"{BUCKET} could not return scores.*127.0.0.1"):
            open_store(f"s3://{BUCKET}", home).open_reader("scores")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(StorageError, match="could not be opened: Invalid endpoint"):
        open_store(f"s3://{BUCKET}", home)


def test_missing_credentials_are_told(s3, home, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match=f"{BUCKET}.*credentials"):
        open_store(f"s3://{BUCKET}", home).write("scores", io.BytesIO(b"1"))


def test_where_boto3_is_not_installed_the_extra_is_named(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3.exceptions", None)
    with pytest.raises(MissingExtraError, match=r"boto3.*\[s3\]"):
        open_store(f"s3://{BUCKET}", home)


# The commands


def test_a_worker_with_the_wrong_store_is_refused_before_it_claims(s3, home, sqlite_url):
    right = {"RUST_OPTUNA_ARTIFACTS": f"s3://{BUCKET}/right"}
    study = write_study(home, random_document(2))
    assert run_command(home, sqlite_url, "study", "create", study, **right).returncode == 0
    assert keys() == ["right/rust_optuna_token"]
    work = ("worker", "run", "--objective", "tests.stand_ins:peak")
    for wrong in (f"s3://{BUCKET}/wrong", "storage/artifacts"):
        ended = run_command(home, sqlite_url, *work, RUST_OPTUNA_ARTIFACTS=wrong)
        assert ended.returncode == 1
        assert "is not the artifact store of sqlite:///" in ended.stderr
        assert wrong in ended.stderr
        assert "Traceback" not in ended.stderr
        assert SECRET not in ended.stderr
    assert run_command(home, sqlite_url, "storage", "adopt-artifacts", **right).returncode == 0
    ended = run_command(home, sqlite_url, *work)  # where the storage says
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, "2 points finished")


def test_a_worker_that_serves_for_ever_ends_where_the_store_is_anothers(sqlite, home):
    make_study(sqlite, home, random_document(1))
    url = sqlite.url.render_as_string(hide_password=False)
    work = ("worker", "run", "--forever", "--objective", "tests.stand_ins:peak")
    ended = run_command(home, url, *work, RUST_OPTUNA_ARTIFACTS="elsewhere")
    assert ended.returncode == 1
    assert "is not the artifact store of" in ended.stderr


def test_a_store_that_was_lost_is_replaced_when_asked_for(sqlite, home):
    url = sqlite.url.render_as_string(hide_password=False)
    make_study(sqlite, home, random_document(1))
    (Path(home.root) / "storage" / "artifacts" / TOKEN).unlink()
    work = ("worker", "run", "--objective", "tests.stand_ins:peak")
    assert "storage adopt-artifacts" in run_command(home, url, *work).stderr
    assert run_command(home, url, "storage", "adopt-artifacts").returncode == 0
    assert run_command(home, url, *work).returncode == 0
