import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from rust_optuna.config import LAYERS
from rust_optuna.errors import WeightsError
from rust_optuna.learn import backbone as backbone_module
from rust_optuna.learn import weights as module
from rust_optuna.learn.backbone import build_backbone, check_weights
from rust_optuna.learn.weights import IMAGENET_FILE, imagenet_file, weights_identity, weights_scheme
from tests.learn.material import BACKBONE

INCEPTION_PARAMETERS = 21_802_784


@pytest.fixture(scope="module")
def inception():
    """An InceptionV3 without its top, of weights that nothing else has."""
    from rust_optuna.learn.runtime import load_keras

    model = load_keras().applications.InceptionV3(include_top=False, weights=None, input_shape=(75, 75, 3))
    generator = np.random.default_rng(5)
    for variable in model.weights:
        variable.assign(generator.uniform(0.01, 0.1, variable.shape))
    return model


@pytest.fixture(scope="module")
def weights(inception):
    return inception.get_weights()


@pytest.fixture(scope="module")
def blank():
    return backbone_module._inception(75, "float32")


@pytest.fixture(scope="module")
def saved(inception, tmp_path_factory):
    """The same weights in each layout that there is."""
    from keras.src.legacy.saving import legacy_h5_format

    folder = tmp_path_factory.mktemp("weights")
    paths = {
        "Keras 3 weights": folder / "new.weights.h5",
        "Keras 3 archive": folder / "archive.keras",
        "HDF5 of a whole model": folder / "whole.h5",
        "HDF5 of weights": folder / "weights_only.h5",
    }
    inception.save_weights(paths["Keras 3 weights"])
    inception.save(paths["Keras 3 archive"])
    inception.save(paths["HDF5 of a whole model"])
    import h5py

    with h5py.File(paths["HDF5 of weights"], "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, inception)
    return paths


def outputs(model, size=75):
    image = np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    return np.asarray(model(image, training=False))


@pytest.mark.tensorflow
@pytest.mark.parametrize("layout", ["Keras 3 weights", "Keras 3 archive", "HDF5 of a whole model", "HDF5 of weights"])
def test_a_file_of_any_layout_loads_bit_exactly(saved, weights, blank, layout):
    module.inspect_weights(saved[layout])
    module.load_weights(blank, saved[layout])
    for loaded, expected in zip(blank.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(loaded, expected)
    assert module.weights_layout(saved[layout]) == layout


@pytest.mark.tensorflow
def test_a_fitting_file_is_reported_and_makes_a_backbone(saved, inception):
    path = saved["HDF5 of a whole model"]
    report = check_weights(path)
    assert (report.layout, report.parameters, report.layers) == ("HDF5 of a whole model", INCEPTION_PARAMETERS, 188)
    assert 0.01 < report.mean_change < 1
    backbone = replace(BACKBONE, weights=str(path), output="mixed10")
    assert f"sha256:{report.sha256}" == weights_identity(backbone)
    np.testing.assert_array_equal(outputs(build_backbone(backbone)), outputs(inception))


@pytest.mark.tensorflow
@pytest.mark.pretrained
@pytest.mark.skipif(not os.environ.get("RUST_OPTUNA_TEST_WEIGHTS"), reason="RUST_OPTUNA_TEST_WEIGHTS is not set")
def test_real_pretrained_weights_fit():
    report = check_weights(Path(os.environ["RUST_OPTUNA_TEST_WEIGHTS"]))
    assert report.parameters == INCEPTION_PARAMETERS


@pytest.mark.tensorflow
def test_random_weights_are_those_of_their_seed_however_many_models_were_built_before():
    first, again, other = (build_backbone(replace(BACKBONE, weights_seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(outputs(first), outputs(again))
    assert (outputs(first) != outputs(other)).any()
    kernel = np.asarray(first.layers[1].kernel)
    drawn = np.random.default_rng(1).standard_normal(kernel.shape, dtype=np.float32)
    np.testing.assert_allclose(kernel, drawn * np.sqrt(2 / 27), rtol=1e-6)
    assert first.trainable_weights == []


@pytest.mark.tensorflow
def test_a_layer_has_one_name_however_many_models_were_built_before(blank):
    # The first convolution's output, of the n-th InceptionV3 in this process.
    one, two = (build_backbone(replace(BACKBONE, output="conv2d_4")) for _ in range(2))
    assert one.output.shape == two.output.shape
    np.testing.assert_array_equal(outputs(one), outputs(two))
    assert {"mixed9", "mixed9_0", "mixed9_1", "conv2d", "conv2d_93"} <= backbone_module._layers_by_name(blank).keys()


@pytest.mark.tensorflow
@pytest.mark.parametrize(("output", "message"), [("mixed11", "mixed0 to mixed10"), ("input_layer", "with features")])
def test_a_layer_that_cannot_be_tapped_is_refused(output, message):
    with pytest.raises(WeightsError, match=message):
        build_backbone(replace(BACKBONE, output=output))


def misfits(folder, saved):
    """Files that do not fit, and a word of the reason."""
    import keras

    folder.mkdir()
    whole = saved["HDF5 of a whole model"].read_bytes()
    # What wraps or tops a model shows without its 188 layers.
    image = keras.Input((75, 75, 3))
    other = keras.Input((75, 75, 3))
    inner = keras.Model(other, keras.layers.Conv2D(4, 3, use_bias=False)(other), name="inception_v3")
    nested = keras.Model(image, keras.layers.GlobalMaxPooling2D()(inner(image)))
    topped = keras.Model(inner.input, keras.layers.Dense(3)(keras.layers.GlobalMaxPooling2D()(inner.output)))
    small = keras.Sequential([image, keras.layers.Conv2D(4, 3, use_bias=False)])
    for name, model in (("nested", nested), ("topped", topped), ("small", small)):
        for suffix in (".h5", ".weights.h5", ".keras"):
            save = model.save_weights if suffix == ".weights.h5" else model.save
            save(folder / f"{name}{suffix}")
            yield folder / f"{name}{suffix}", {"nested": "nested", "topped": "on top", "small": "does not fit"}[name]
    contents = {
        "cut.h5": (whole[: len(whole) // 2], "cannot be read"),
        "empty.h5": (b"", "cannot be read"),
        "text.keras": (b"not a zip", "cannot be read"),
        "image.png": (whole, "must end in"),
        "older.weights.h5": (whole, "end in .h5 only"),
        "newer.h5": (saved["Keras 3 weights"].read_bytes(), "end in .weights.h5"),
    }
    for name, (content, reason) in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name, reason
    yield folder / "absent.h5", "There is no weights file"


@pytest.mark.tensorflow
def test_a_file_that_does_not_fit_is_refused_in_one_line_with_the_reason(saved, tmp_path):
    for path, reason in misfits(tmp_path / "misfits", saved):
        with pytest.raises(WeightsError, match=reason) as refused:
            check_weights(path)
        assert "\n" not in str(refused.value)
        assert path.name in str(refused.value)


@pytest.mark.parametrize("array", [None, "optimizer/vars/0"])
def test_a_file_of_groups_alone_or_with_an_optimizer_s_arrays_holds_no_weights(tmp_path, array):
    path = tmp_path / "empty.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers/conv2d/vars")
        if array:
            file[array] = np.zeros(3)
    assert module._unfit(path) == "it holds no weights"


@pytest.mark.tensorflow
def test_weights_that_are_not_finite_are_refused(saved, tmp_path):
    import h5py

    path = tmp_path / "bad.h5"
    shutil.copy(saved["HDF5 of weights"], path)
    with h5py.File(path, "r+") as file:
        found = []
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        file[found[0]][...] = np.nan
        file[found[-1]][...] = np.inf
    with pytest.raises(WeightsError, match="2 of its 376 arrays are missing from the file or not finite"):
        check_weights(path)


def test_the_identity_of_weights_goes_by_their_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(b"abc")
    one, two = (weights_identity(replace(BACKBONE, weights=str(tmp_path / name))) for name in ("a.h5", "b.h5"))
    assert one == two == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "a.h5").write_bytes(b"abcd")
    assert weights_identity(replace(BACKBONE, weights=str(tmp_path / "a.h5"))) != one
    assert weights_identity(BACKBONE) == "random-he-normal-1:3"
    with pytest.raises(WeightsError, match="no weights file"):
        weights_identity(replace(BACKBONE, weights=str(tmp_path / "c.h5")))
    assert weights_scheme(replace(BACKBONE, weights=str(tmp_path / "b.h5"))) == two
    assert weights_scheme(BACKBONE) == weights_scheme(replace(BACKBONE, weights_seed=4)) == "random-he-normal-1"


def test_a_file_is_read_once_for_its_checksum_while_it_stays_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(b"abc")
    read, honest = [], module.hashlib.file_digest
    monkeypatch.setattr(module.hashlib, "file_digest", lambda *given: read.append(1) or honest(*given))
    before = module.digest(path, "sha256")
    assert module.digest(path, "sha256") == before
    assert len(read) == 1
    path.write_bytes(b"abcd")
    assert module.digest(path, "sha256") != before
    assert len(read) == 2


@pytest.mark.tensorflow
@pytest.mark.parametrize("damaged", [False, True])
def test_without_a_network_the_file_to_fetch_and_its_place_are_named(tmp_path, monkeypatch, damaged):
    def unreachable(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    if damaged:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / IMAGENET_FILE).write_bytes(b"half of it")
    with pytest.raises(WeightsError) as refused:
        imagenet_file()
    message = str(refused.value)
    assert "\n" not in message
    assert "could not be downloaded (Name or service not known). Download https://" in message
    assert ("damaged" in message) == damaged
    for needed in (f"/{IMAGENET_FILE}", str(tmp_path / "models"), "`weights` under [model]"):
        assert needed in message


def test_imagenet_weights_are_taken_from_keras_own_cache(tmp_path, monkeypatch):
    import hashlib

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / IMAGENET_FILE).write_bytes(b"stand-in")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(module, "IMAGENET_MD5", hashlib.md5(b"stand-in").hexdigest())
    assert imagenet_file() == tmp_path / "models" / IMAGENET_FILE
    imagenet = replace(BACKBONE, weights="imagenet")
    assert weights_identity(imagenet) == f"sha256:{hashlib.sha256(b'stand-in').hexdigest()}"


@pytest.mark.tensorflow
def test_address_and_checksum_are_keras_own():
    import inspect

    from keras.src.applications import inception_v3

    source = inspect.getsource(inception_v3)
    assert module.IMAGENET_MD5 in source
    assert inception_v3.WEIGHTS_PATH_NO_TOP == module.IMAGENET_ADDRESS


@pytest.mark.tensorflow
def test_a_study_file_may_name_every_layer_that_has_features_and_no_other(blank):
    assert {*LAYERS, "input_layer"} == set(backbone_module._layers_by_name(blank))
