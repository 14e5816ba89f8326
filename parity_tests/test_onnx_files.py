"""What ONNX files are, besides what they compute: their versions, and weights beyond 2 GiB."""

import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tf_impl.export
import torch_impl.export
from scripts import cli
from weights import onnx_file


def export(folder, *more, model="pixelgan"):
    result = CliRunner().invoke(cli.main, ["export", model, "--out", str(folder), "--json", *map(str, more)])
    assert result.exit_code == 0, result.output
    return {file["framework"]: file for file in json.loads(result.stdout)["files"]}


@pytest.mark.parametrize("model, opset, ir", [("pixelgan", 18, 8), ("bilstm_crf", 18, 8)])
def test_both_files_have_the_lowest_version_of_their_operators(model, opset, ir, tmp_path):
    """ONNX Runtime 1.14 to 1.17 run opset 18, and refuse an IR version of 10."""
    for file in export(tmp_path, model=model).values():
        proto = onnx.load(file["path"])
        assert proto.ir_version == ir
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]


def dense(size=64, opset=19):
    """A graph with one matrix, and what it computes."""
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((size, size), (2, size)))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "dense", values[:1], values[1:], [numpy_helper.from_array(weight, "weight")])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), {"x": x}, {"y": x @ weight}


@pytest.mark.parametrize("opset, ir", [(18, 8), (19, 9)])
def test_versions_of_a_file(opset, ir, tmp_path):
    model, inputs, expected = dense(opset=opset)
    onnx_file.write_verified(model, tmp_path / "x.onnx", inputs, expected, {})
    proto = onnx.load(tmp_path / "x.onnx")
    assert (proto.ir_version, [entry.domain for entry in proto.opset_import]) == (ir, [""])


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 4096)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_weights_beyond_the_limit_are_beside_the_model(small_limit, tmp_path):
    path = tmp_path / "x.onnx"
    for seed in range(2):  # the second takes the place of the first, its data included
        model, inputs, expected = dense(64 + seed)
        onnx_file.write_verified(model, path, inputs, expected, {"key": "value"})
        data, own = onnx_file.files_of(path)
        assert own == path and names(tmp_path) == sorted([data.name, "x.onnx"])
        assert path.stat().st_size < 2000 and data.stat().st_size >= 4 * (64 + seed) ** 2
        assert np.allclose(onnx_file.run(onnx_file.session(path), inputs)["y"], expected["y"], atol=1e-4)
        assert onnx.load(path).metadata_props[1].value == "value"


def test_a_small_model_takes_the_data_of_a_large_one_away(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "LIMIT", 4096)
        onnx_file.write_verified(*_with_path(dense(), tmp_path))
    onnx_file.write_verified(*_with_path(dense(), tmp_path))
    assert names(tmp_path) == ["x.onnx"]


def _with_path(made, folder):
    model, inputs, expected = made
    return model, folder / "x.onnx", inputs, expected, {}


def test_nothing_is_left_of_a_large_model_that_is_wrong(small_limit, tmp_path):
    model, inputs, expected = dense()
    onnx_file.write_verified(model, tmp_path / "x.onnx", inputs, expected, {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model, inputs, expected = dense(65)
    with pytest.raises(onnx_file.ExportError, match="differs"):
        onnx_file.write_verified(model, tmp_path / "x.onnx", inputs, {"y": expected["y"] + 1}, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_line_writes_both_with_their_weights_beside_them(small_limit, tmp_path):
    for _ in range(2):
        files = export(tmp_path, "--weights", "random")
        assert len(names(tmp_path)) == 4
        for file in files.values():
            data, own = onnx_file.files_of(file["path"])
            assert file["bytes"] == data.stat().st_size + own.stat().st_size
            onnx_file.session(own)


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_what_no_file_takes_is_refused_before_the_work(framework, monkeypatch, tmp_path):
    arguments = ["export", "pixelgan", "--framework", framework, "--out", str(tmp_path / "o")]
    monkeypatch.setattr(onnx_file, "LIMIT", 30000)
    for limit, more, words in ((2000, [], "split it"), (36000, ["--half"], "float16")):
        monkeypatch.setattr(onnx_file, "TENSOR", limit)
        result = CliRunner().invoke(cli.main, [*arguments, *more])
        assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
        assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_model_beyond_two_gibibytes(framework, tmp_path):
    """About 12 GiB of memory."""
    size = 16500  # two matrices of this size
    x = np.random.default_rng(0).standard_normal((2, size)).astype(np.float32)
    path = tmp_path / "large.onnx"
    if framework == "torch":
        layers = [torch.nn.Linear(size, size, bias=False).requires_grad_(False) for _ in range(2)]
        model = torch.nn.Sequential(*layers)
        torch_impl.export.export(model, path, {"x": x})
    else:
        model = keras.Sequential([keras.layers.Dense(size, use_bias=False) for _ in range(2)])
        model(x)
        tf_impl.export.export(model, path, {"x": x})
    data, own = onnx_file.files_of(path)
    assert data.stat().st_size > 2**31 > 10**6 > own.stat().st_size


def ranking(rng):
    """Forty boxes of two images, and what belongs to them."""
    return {"boxes": rng.uniform(0, 99, (2, 40, 4)), "logits": rng.standard_normal((2, 40, 3)), "image": np.ones(2)}


def test_rows_of_a_ranking_that_rounding_swapped_are_put_in_order():
    expected = ranking(np.random.default_rng(0))
    order = np.tile(np.arange(40), (2, 1))
    order[1, [3, 4, 5]] = [5, 3, 4]
    swapped = {name: v[np.arange(2)[:, None], order] if v.ndim > 1 else v for name, v in expected.items()}
    for name, value in onnx_file.aligned(swapped, expected).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("fault", ["row", "order"])
def test_other_rows_of_a_ranking_stay_wrong(fault):
    expected = ranking(np.random.default_rng(0))
    found = {name: value.copy() for name, value in expected.items()}
    if fault == "row":
        found["boxes"][0, 7] += 1
    else:  # more rows than rounding moves
        found["boxes"] = found["boxes"][:, ::-1]
    assert onnx_file.relative(onnx_file.aligned(found, expected)["boxes"], expected["boxes"]) > 1e-3


def test_logits_that_belong_to_other_boxes_stay_wrong():
    expected = ranking(np.random.default_rng(0))
    found = {**expected, "logits": expected["logits"][:, [1, 0, *range(2, 40)]]}
    assert onnx_file.relative(onnx_file.aligned(found, expected)["logits"], expected["logits"]) > 1e-2


def test_what_is_not_chosen_may_be_infinite(tmp_path):
    """tf2onnx alone multiplies it by 0, which gives NaN."""

    class Logarithm(keras.layers.Layer):
        def call(self, x, training=False):
            return tf.where(x > 0, tf.math.log(x), 0.0)

    x = np.array([[1, 0], [0, np.e]], np.float32)
    path = tf_impl.export.export(Logarithm(), tmp_path / "x.onnx", {"x": x})
    proto = onnx.load(path)
    assert onnx_file.histogram(proto)["Where"] == 1
    (found,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, [[0, 0], [0, 1]], rtol=1e-6)
