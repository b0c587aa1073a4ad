import pytest
from click.testing import CliRunner

from rust_optuna.cli import cli
from rust_optuna.storage.artifacts import TOKEN
from tests.storage.test_migrations import go_back_to_version_1


def test_tables_from_before_the_tokens_take_their_artifact_store_with_them(sqlite, home):
    go_back_to_version_1(sqlite)
    url = sqlite.url.render_as_string(hide_password=False)
    run = ["--home", str(home.root), "--storage", url, "storage", "upgrade"]
    done = CliRunner().invoke(cli, run)
    assert done.exit_code == 0, done.output
    assert "was upgraded from version 1" in done.output
    store = home.root / "storage" / "artifacts"
    token = (store / TOKEN).read_text()
    assert len(token) == 32
    (store / TOKEN).unlink()
    assert "was up to date" in CliRunner().invoke(cli, run).output
    assert not (store / TOKEN).exists()  # an empty folder is not taken for the right one a second time


@pytest.mark.parametrize("contents", [None, b"no database at all" * 100])
def test_an_upgrade_of_what_is_no_storage_is_one_line_and_makes_nothing(home, contents):
    path = home.root / "notes.db"
    if contents is not None:
        path.write_bytes(contents)
    done = CliRunner().invoke(cli, ["--home", str(home.root), "--storage", "sqlite:///notes.db", "storage", "upgrade"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert len(done.output.splitlines()) == 1
    assert (path.read_bytes() if path.exists() else None) == contents
