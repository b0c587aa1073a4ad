import shutil

import pytest

from tests.cli.test_main import invoke
from tests.studies import make_study, random_document

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def build(sqlite, home):
    study = make_study(sqlite, home, random_document(1))
    storage = sqlite.url.render_as_string()
    return lambda *arguments: invoke("--home", home.root, "--storage", storage, "features", "build", *arguments), study


def test_films_that_the_data_root_lacks_are_counted_and_named(home, build):
    run, study = build
    shutil.move(home.root / "films", home.root / "elsewhere")
    (home.root / "elsewhere" / "0.png").unlink()
    done = run(study.name, "--data-root", "elsewhere")
    assert done.exit_code == 1
    assert f"1 of 20 films are not below {home.root / 'elsewhere'}, byte for byte" in done.output
    assert not home.features.exists()


def test_a_data_root_does_not_go_with_a_study_file(build):
    run, _ = build
    done = run("regime-1.toml", "--data-root", "elsewhere")
    assert done.exit_code == 2
    assert "--data-root goes with a study's name" in done.output
