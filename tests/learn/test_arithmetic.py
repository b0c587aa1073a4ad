import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from rust_optuna import machine
from rust_optuna.config import TrialConfiguration
from rust_optuna.data.manifest import LABELS
from rust_optuna.errors import RustOptunaError
from rust_optuna.learn import arithmetic as module
from rust_optuna.learn.arithmetic import arithmetic, remember_arithmetic, remembered_arithmetic
from rust_optuna.learn.runtime import load_keras, load_tensorflow


def kind_in_a_process(**variables):
    code = "from rust_optuna.learn.arithmetic import arithmetic; print(arithmetic('float32'))"
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.tensorflow
def test_a_kind_names_what_computes_and_how_it_rounds():
    kind = arithmetic("float32")
    assert re.fullmatch(r".+ [0-9a-f]{8}", kind)
    assert kind != arithmetic("bfloat16")
    if module.first_gpu() is None:
        assert kind.startswith(machine.instruction_set())


@pytest.mark.tensorflow
@pytest.mark.skipif(machine.instruction_set() != "AVX-512", reason="needs a processor with AVX-512")
def test_an_older_instruction_set_is_another_kind():
    older = kind_in_a_process(ONEDNN_MAX_CPU_ISA="AVX2", CUDA_VISIBLE_DEVICES="-1")
    assert older.startswith("AVX2 ")
    assert older.split()[-1] != arithmetic("float32").split()[-1]


@pytest.mark.tensorflow
@pytest.mark.parametrize("part", ["CONVOLUTIONS", "PRODUCTS"])
def test_how_convolutions_and_products_round_both_count(monkeypatch, part):
    before = module._rounding("float32")
    assert module._rounding("float32") == before
    monkeypatch.setattr(module, part, getattr(module, part)[1:])
    assert module._rounding("float32") != before


@pytest.mark.tensorflow
def test_the_probe_rounds_as_the_same_operations_one_by_one(monkeypatch):
    """What compiles them otherwise (XLA, say) would tell of sums that neither the backbone nor the head computes."""
    tf = load_tensorflow()
    monkeypatch.setattr(module, "CONVOLUTIONS", ((17, 192, 192, 1, 7),))
    monkeypatch.setattr(module, "PRODUCTS", ((2048, 1024),))
    generator = np.random.default_rng(0)
    shapes = (module.ROWS, 17, 17, 192), (1, 7, 192, 192), (8 * module.ROWS, 2048), (2048, 1024)
    maps, kernel, rows, layer = (tf.constant(generator.standard_normal(shape, dtype=np.float32)) for shape in shapes)
    product = tf.matmul(rows, layer)
    expected = [
        tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(maps, kernel, 1, "SAME")), axis=(1, 2)),
        product,
        tf.matmul(rows, product, transpose_a=True),
        tf.matmul(product, layer, transpose_b=True),
    ]
    digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in expected)).hexdigest()
    assert module._rounding("float32") == digest[:8]


@pytest.mark.tensorflow
def test_the_probe_has_the_shapes_of_the_backbone_and_of_the_head():
    applications = load_keras().applications
    backbone = applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
    layers = [layer for layer in backbone.layers if layer.__class__.__name__ == "Conv2D"]
    convolutions = {
        (layer.output.shape[1], layer.input.shape[-1], layer.output.shape[-1], *layer.kernel_size) for layer in layers
    }
    assert set(module.CONVOLUTIONS) <= convolutions
    sizes = [backbone.output_shape[-1], *TrialConfiguration.hidden_units, len(LABELS)]
    assert list(module.PRODUCTS) == list(itertools.pairwise(sizes))


@pytest.mark.tensorflow
def test_a_processors_kind_is_remembered_for_those_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "first_gpu", lambda: None)
    assert remembered_arithmetic(tmp_path, "float32") is None
    remember_arithmetic(tmp_path, "float32")
    remember_arithmetic(tmp_path, "bfloat16")
    assert remembered_arithmetic(tmp_path, "float32") == arithmetic("float32")
    assert remembered_arithmetic(tmp_path, "bfloat16") == arithmetic("bfloat16")
    monkeypatch.setattr(module, "processor", lambda: "another one")
    assert remembered_arithmetic(tmp_path, "float32") is None


@pytest.mark.tensorflow
def test_a_gpus_kind_is_not_taken_for_the_processors(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "first_gpu", lambda: "NVIDIA H100")
    remember_arithmetic(tmp_path, "float32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '"AVX2"'])
def test_a_damaged_memory_remembers_nothing(tmp_path, text):
    (tmp_path / module.MEMORY).write_text(text)
    assert remembered_arithmetic(tmp_path, "float32") is None


@pytest.mark.tensorflow
def test_what_others_remembered_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "first_gpu", lambda: None)
    (tmp_path / module.MEMORY).write_text(json.dumps({"another": "AVX2 1"}))
    remember_arithmetic(tmp_path, "float32")
    assert json.loads((tmp_path / module.MEMORY).read_text())["another"] == "AVX2 1"


FLAGS = {
    "AVX-512": "fpu sse4_1 avx fma avx2 avx512f avx512bw avx512dq avx512vl",
    "AVX2": "fpu sse4_1 avx fma avx2 avx512f",  # without its parts it is of no use
    "AVX": "fpu sse4_1 avx",
    "SSE4.1": "fpu sse4_1",
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_instruction_set_is_the_best_that_the_processor_has(monkeypatch, name):
    monkeypatch.delenv(machine.ISA_LIMIT, raising=False)
    monkeypatch.setattr(machine, "_cpuinfo", lambda field: FLAGS[name])
    assert machine.instruction_set() == name


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ("AVX2", "AVX2"),
        ("avx2_vnni", "AVX2"),
        ("AVX2_VNNI_2", "AVX2"),
        ("SSE41", "SSE4.1"),
        ("AVX512_CORE", "AVX-512"),
    ],
)
def test_onednns_own_limit_holds(monkeypatch, limit, name):
    monkeypatch.setenv(machine.ISA_LIMIT, limit)
    monkeypatch.setattr(machine, "_cpuinfo", lambda field: FLAGS["AVX-512"])
    assert machine.instruction_set() == name


@pytest.mark.parametrize("cores", ["0", "-1", "two", ""])
def test_a_number_of_cores_that_is_none_is_refused(monkeypatch, cores):
    monkeypatch.setenv(machine.CORES, cores)
    with pytest.raises(RustOptunaError, match=r"RUST_OPTUNA_CORES is .*1 or more"):
        machine.cores()


def test_what_multiplies_bfloat16_is_part_of_what_a_processors_kind_is_remembered_by(monkeypatch):
    signatures = set()
    for limit in ("", "AVX512_CORE"):
        for more in ("", " avx512_bf16"):
            monkeypatch.setenv(machine.ISA_LIMIT, limit)
            monkeypatch.setattr(machine, "_cpuinfo", lambda field, more=more: FLAGS["AVX-512"] + more)
            signatures.add(module._signature("bfloat16"))
    assert len(signatures) == 4
