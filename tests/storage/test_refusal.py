from pathlib import Path

import pytest
import sqlalchemy as sa

from rust_optuna.errors import StorageError
from rust_optuna.paths import Home
from rust_optuna.storage import refusal
from rust_optuna.storage.database import create_database, open_database
from rust_optuna.storage.refusal import check_file_system, file_system
from rust_optuna.storage.url import parse_url
from tests.studies import run_command

MOUNTS = """\
/dev/root / ext4 rw,relatime 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/ann/scratch tmpfs rw 0 0
//server/films /mnt/the\\040films cifs rw 0 0
systemd-1 /net autofs rw 0 0
server:/net /net nfs rw 0 0
me@server: /remote fuse.sshfs rw 0 0
/dev/sdb1 /stick fuseblk rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/a.db", "ext4"),
        ("/home/ann/a.db", "nfs4"),
        ("/homeless/a.db", "ext4"),
        ("/home/ann/scratch/deep/a.db", "tmpfs"),
        ("/mnt/the films/a.db", "cifs"),
        ("/net/a.db", "nfs"),
        ("/remote/a.db", "fuse.sshfs"),
        ("/stick/a.db", "fuseblk"),
    ],
)
def test_a_file_lies_on_the_innermost_and_latest_mount(path, kind):
    assert file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph"]
)
def test_sqlite_on_a_network_file_system_is_refused_with_the_reason_and_the_way_out(kind):
    with pytest.raises(StorageError, match=f"{kind}.*locks are unreliable.*local disk.*postgresql://"):
        check_file_system(Path("/share/a.db"), f"host:/x /share {kind} rw 0 0\n")


@pytest.mark.parametrize("mounts", [MOUNTS, "", "tmpfs /srv tmpfs rw 0 0\n", "d /srv overlay rw 0 0\n"])
def test_a_local_or_unknown_file_system_is_accepted(mounts):
    check_file_system(Path("/srv/a.db"), mounts)


def test_nothing_is_opened_or_made_on_a_network_file_system(sqlite, tmp_path, monkeypatch):
    table = tmp_path / "mounts"
    monkeypatch.setattr(refusal, "MOUNTS", table)
    table.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    elsewhere = parse_url(f"sqlite:///{tmp_path}/new/a.db", Home(tmp_path))
    for attempt in (
        lambda: open_database(sqlite.url),
        lambda: open_database(sqlite.url, read_only=True),
        lambda: create_database(sqlite.url, "artifacts"),
        lambda: create_database(elsewhere, "artifacts"),
    ):
        with pytest.raises(StorageError, match="nfs4"):
            attempt()
    assert not (tmp_path / "new").exists()
    table.unlink()
    open_database(sqlite.url).close()


@pytest.mark.parametrize("wrote", ["4.8.0", "6.0.0"])
def test_a_database_of_another_major_version_of_optuna_is_refused(database, wrote):
    change = sa.text("UPDATE version_info SET library_version = :wrote").bindparams(wrote=wrote)
    database.transact(lambda connection: connection.execute(change))
    for attempt in (
        lambda: open_database(database.url),
        lambda: open_database(database.url, read_only=True),
        lambda: create_database(database.url, "artifacts"),
    ):
        with pytest.raises(StorageError, match=f"written by Optuna {wrote}, and this is Optuna 5.*share"):
            attempt()


def test_a_later_minor_version_of_optuna_is_accepted(sqlite):
    change = sa.text("UPDATE version_info SET library_version = '5.7.1'")
    sqlite.transact(lambda connection: connection.execute(change))
    open_database(sqlite.url).close()


def test_our_tables_are_not_made_beside_those_of_an_older_optuna(home, sqlite_url):
    engine = sa.create_engine(parse_url(sqlite_url, home))
    Path(str(engine.url.database)).parent.mkdir()
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE version_info (version_info_id INTEGER, library_version TEXT)"))
        connection.execute(sa.text("INSERT INTO version_info VALUES (1, '4.2.0')"))
    with pytest.raises(StorageError, match=r"Optuna 4\.2\.0"):
        create_database(engine.url, "artifacts")
    assert sa.inspect(engine).get_table_names() == ["version_info"]
    ended = run_command(home, sqlite_url, "status")
    assert ended.returncode == 1
    assert "holds no studies yet" in ended.stderr
