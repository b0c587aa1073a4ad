import json

import numpy as np
import pytest
from click.testing import CliRunner

from rust_optuna.cli.weights import weights
from rust_optuna.errors import WeightsError


def check(*arguments):
    return CliRunner().invoke(weights, ["check", *map(str, arguments)])


@pytest.fixture(scope="module")
def fitting(tmp_path_factory):
    keras = pytest.importorskip("keras")
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(75, 75, 3))
    path = tmp_path_factory.mktemp("weights") / "fitting.h5"
    model.save(path)
    return path


@pytest.mark.tensorflow
def test_a_file_that_fits_is_described(fitting):
    done = check(fitting)
    assert done.exit_code == 0, done.output
    assert "fits InceptionV3 without its top" in done.output
    assert "21,802,784 in 188 layers" in done.output


@pytest.mark.tensorflow
def test_json_says_the_same(fitting):
    done = check(fitting, "--json")
    assert done.exit_code == 0
    found = json.loads(done.output)
    assert (found["fits"], found["parameters"], found["path"]) == (True, 21_802_784, str(fitting))
    assert np.isfinite(found["mean_change"])


@pytest.mark.tensorflow
def test_a_file_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "broken.h5").write_bytes(b"not HDF5")
    done = check(tmp_path / "broken.h5")
    assert done.exit_code == 1
    assert isinstance(done.exception, WeightsError)
    assert done.exception.exit_code == 1
    as_json = check(tmp_path / "broken.h5", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.output)["fits"] is False


@pytest.mark.tensorflow
def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no weights file" in str(check(tmp_path / "absent.h5").exception)


def test_help_shows_an_example():
    assert "rust-optuna weights check RadImageNet" in check("--help").output
