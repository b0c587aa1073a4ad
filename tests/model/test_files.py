import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rust_optuna.config import BackboneConfiguration
from rust_optuna.errors import DataError
from rust_optuna.learn.fitting import Head
from rust_optuna.learn.head import Standardisation, initial_weights
from rust_optuna.model import files
from rust_optuna.model.files import HeadRecord, ModelCard, load_model
from tests.model.films import SHOWN

pytestmark = pytest.mark.tensorflow
REPOSITORY = Path(__file__).parents[2]


def make_head(seed, standardised):
    generator = np.random.default_rng(seed)
    fitted = Standardisation.fit(generator.normal(3, 2, (9, 4, 12)).astype(np.float32)) if standardised else None
    return Head(tuple(initial_weights(12, (8, 4), seed)), fitted, "float32")


@pytest.fixture
def heads():
    return {"repeat-0-fold-0": make_head(1, True), "whole": make_head(2, False)}


@pytest.fixture
def folder(tmp_path, heads):
    records = tuple(HeadRecord(name, head.sha256, head.precision) for name, head in heads.items())
    card = ModelCard("m", BackboneConfiguration("random"), {"weights": "x"}, SHOWN, records, "repeat-0-fold-0")
    with files.new_directory(tmp_path / "models" / "m") as temporary:
        files.write_json(temporary / "model.json", card.to_json())
        for name, head in heads.items():
            files.save_head(temporary / "heads", name, head)
    return tmp_path / "models" / "m"


def test_a_directory_is_read_as_it_was_written(folder, heads):
    model = load_model(folder)
    assert (model.card.name, model.card.cortices, model.card.primary) == ("m", SHOWN, "repeat-0-fold-0")
    assert {name: head.sha256 for name, head in model.heads.items()} == {n: h.sha256 for n, h in heads.items()}


def test_another_process_gets_the_same_scores_to_the_bit(folder, heads, tmp_path):
    features = np.random.default_rng(0).standard_normal((70, 12)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from rust_optuna.learn.runtime import load_tensorflow\n"
        "load_tensorflow()\n"
        "from rust_optuna.model.files import load_model\n"
        "model = load_model(Path(sys.argv[1]))\n"
        "features = np.load(sys.argv[2])\n"
        "np.savez(sys.argv[3], **{name: head.scores(features) for name, head in model.heads.items()})\n"
    )
    paths = [folder, tmp_path / "features.npy", tmp_path / "scores.npz"]
    subprocess.run([sys.executable, "-c", script, *map(str, paths)], check=True, cwd=REPOSITORY, capture_output=True)
    with np.load(tmp_path / "scores.npz") as scores:
        for name, head in heads.items():
            np.testing.assert_array_equal(scores[name], head.scores(features))


def test_sha256sum_checks_the_directory(folder):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "no sums"])
def test_a_directory_that_is_not_as_it_was_written_is_refused(folder, harm):
    victim = folder / "heads" / "whole.keras"
    if harm == "changed":
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    elif harm == "missing":
        victim.unlink()
    elif harm == "added":
        (folder / "heads" / "more.keras").write_bytes(b"")
    else:
        (folder / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match=r"has changed|is missing|no model directory"):
        load_model(folder)


def test_a_head_that_is_not_the_one_described_is_refused(folder, heads):
    record = HeadRecord("whole", heads["repeat-0-fold-0"].sha256, "float32")
    with pytest.raises(DataError, match="does not hold the head"):
        files.load_head(folder / "heads", record)


def test_a_directory_is_there_whole_or_not_at_all(tmp_path, folder):
    def half(folder):
        with files.new_directory(folder) as temporary:
            files.write_json(temporary / "model.json", {})
            files.write_json(temporary / "metrics.json", math.nan)

    with pytest.raises(ValueError, match="not JSON compliant"):
        half(tmp_path / "models" / "n")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]
    with pytest.raises(DataError, match="is there already"), files.new_directory(folder) as temporary:
        (temporary / "model.json").write_text("{}")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]


def test_a_directory_that_may_be_replaced_is_there_until_the_new_one_is_whole(tmp_path):
    def write(content):
        with files.new_directory(tmp_path / "report", replace=True) as temporary:
            files.write_json(temporary / "numbers.json", content)

    write(1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(math.nan)
    assert files.read_json(tmp_path / "report" / "numbers.json") == 1
    write(2)
    files.check_directory(tmp_path / "report")
    assert files.read_json(tmp_path / "report" / "numbers.json") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_what_a_killed_process_left_of_a_directory_is_removed_by_the_next(tmp_path):
    models = tmp_path / "models"
    with files.new_directory(models / "m") as temporary:
        left, other = models / temporary.name.replace(temporary.name[3:15], "0" * 12), models / ".m.n.000000000000.tmp"
        assert left.name == ".m.000000000000.tmp"
        for folder in (left, other):
            folder.mkdir()
            (folder / "model.json").write_text("{")
    with files.new_directory(models / "m2"):
        pass
    assert left.is_dir()
    shutil.rmtree(models / "m")
    with files.new_directory(models / "m") as temporary:
        (temporary / "model.json").write_text("{}")
    assert sorted(path.name for path in models.iterdir()) == [other.name, "m", "m2"]
