"""A study goes by its weights' bytes, not by the name of their file."""

import pytest

from tests.cli.test_main import invoke
from tests.studies import random_document, write_study

ONE = {"model": {"weights": "mine.h5"}}
SEVERAL = {
    "search_space": {
        "batch_size": [4, 8],
        "dropout_rate": {"type": "float", "low": 0.0, "high": 0.5},
        "weights": ["mine.h5", "other.h5"],
    }
}


@pytest.mark.parametrize("changes", [ONE, SEVERAL], ids=["fixed", "searched"])
def test_the_same_study_file_with_changed_weights_is_refused_by_name(sqlite, home, changes):
    def create():
        url = sqlite.url.render_as_string(hide_password=False)
        return invoke("--home", home.root, "--storage", url, "study", "create", "regime-1.toml")

    write_study(home, random_document(**{"model": {}, **changes}))
    mine = home.root / "mine.h5"
    mine.write_bytes(b"weights of one day")
    (home.root / "other.h5").write_bytes(b"others")
    for said in ("regime-1 created in", "regime-1 already exists"):
        done = create()
        assert (done.exit_code, said in done.output) == (0, True), done.output
    mine.write_bytes(b"weights of another")
    refused = create()
    assert refused.exit_code == 1
    assert "Study regime-1 in" in refused.output
    assert "was created with other weights: the file's bytes" in refused.output
    # The bytes decide, not when the file was written.
    mine.write_bytes(b"weights of one day")
    assert create().exit_code == 0
