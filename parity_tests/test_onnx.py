"""Both ONNX files agree with their framework and with each other, and one can stand in for the other."""

import numpy as np
import onnx
import onnxruntime
import pytest

import tf_impl.export
from parity_tests.harness.case import cases
from parity_tests.harness.measure import Proof
from weights import onnx_file


def test_onnx_files_agree(case, holds):
    measured = holds("onnx")
    assert measured.applies or measured.reason


def test_keras_files_of_two_stages_are_hardly_longer(case, proof):
    if case in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
        files = proof.files["results"]
        keras, torch = (len(onnx.load_from_string(files[name]).graph.node) for name in ("tf_impl", "torch_impl"))
        assert 0.8 < keras / torch < 1.2


@pytest.mark.parametrize("name", ["mobilenet_v2", "retinanet_resnet50_fpn"])
def test_half_precision_is_smaller_and_near(name, tmp_path):
    """Outputs that the model also reads, and constant ones, stay what they are."""
    proof = Proof(cases()[name])
    inputs, _ = proof.arrays()
    feed = {key: value.astype(np.float32) for key, value in inputs.items()}
    for panel in proof.twins("float32"):
        path = panel.export(tmp_path / f"{panel.package}.onnx", inputs, None, {}, half=True)
        model = onnx.load(path)
        kinds = {value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]}
        assert onnx.TensorProto.FLOAT16 not in kinds
        kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
        assert kernels and {tensor.data_type for tensor in kernels} == {onnx.TensorProto.FLOAT16}
        found, expected = onnx_file.run(onnx_file.session(path), feed), panel.outputs(inputs)
        assert 1e-6 < max(onnx_file.relative(found[key], expected[key]) for key in expected) < 1e-2


def test_sums_are_fused_with_the_convolution_before_them(tmp_path):
    """As they are in the other file: ONNX Runtime has to know that the batch stays what it was in every Reshape."""
    proof = Proof(cases()["shufflenet_v1_g3_x0_5"])
    inputs, _ = proof.arrays()
    for panel in proof.twins("float32"):
        path = panel.export(tmp_path / f"{panel.package}.onnx", inputs, None, {})
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        assert onnx_file.histogram(onnx.load(path))["Add"] > 0
        assert onnx_file.histogram(onnx.load(tmp_path / "optimised.onnx"))["Add"] == 0


def test_large_matrices_are_handed_to_the_graph(monkeypatch, tmp_path):
    """They are initialisers of the file as all others are, the tied one once, and the numbers are the same."""
    monkeypatch.setattr(tf_impl.export, "LARGE", 100)
    proof = Proof(cases()["bert_base_uncased"])
    inputs, targets = proof.arrays()
    tensorflow, torch = proof.twins("float32")
    paths = {form: tmp_path / f"{form}.onnx" for form in ("model", "losses")}
    tensorflow.export_all(paths, inputs, targets, proof.case.dynamic)
    for form, path in paths.items():
        model = onnx.load(path)
        assert not [value.name for value in model.graph.input if value.name.startswith("large")]
        handed = [tensor for tensor in model.graph.initializer if tensor.name.startswith("large_weight_")]
        assert sorted(tuple(tensor.dims) for tensor in handed).count((50, 16)) == 1 and len(handed) > 10
        feed = {**inputs, **targets} if form == "losses" else inputs
        found = onnx_file.run(onnx_file.session(path), feed)
        expected = torch.losses(inputs, targets) if form == "losses" else torch.outputs(inputs)
        assert max(onnx_file.relative(found[key], expected[key]) for key in expected) < 1e-5


def _graph():
    """y = x + 1, and a loss that needs t; the length of x is read from t, as PyTorch's exporter does."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, t = (helper.make_tensor_value_info(name, kind, ["N", 3]) for name in "xt")
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in ("model.y", "model.n", "losses.total")]
    one = onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [
        helper.make_node("Add", ["x", "one"], ["model.y"]),
        helper.make_node("Shape", ["t"], ["length"], start=0, end=1),
        helper.make_node("Cast", ["length"], ["model.n"], to=kind),
        helper.make_node("Sub", ["model.y", "t"], ["losses.total"]),
    ]
    graph = helper.make_graph(nodes, "g", [x, t], outputs, [one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_cut_is_the_part_that_the_outputs_need():
    part = onnx_file.cut(_graph(), ["x"], {"model.y": "y", "model.n": "n"})
    x = np.zeros((4, 3), np.float32)
    found = onnx_file.run(onnx_file.session(part.SerializeToString()), {"x": x})
    assert [value.name for value in part.graph.input] == ["x"]
    assert [node.op_type for node in part.graph.node] == ["Add", "Shape", "Cast"]
    assert found["n"] == 4 and (found["y"] == x + 1).all()
    whole = onnx_file.cut(_graph(), ["x", "t"], {"losses.total": "total"})
    assert [node.op_type for node in whole.graph.node] == ["Add", "Sub"]
    assert (onnx_file.run(onnx_file.session(whole.SerializeToString()), {"x": x, "t": x})["total"] == 1).all()


def test_cut_names_a_length_that_no_input_has():
    graph = _graph()
    graph.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "M"
    with pytest.raises(onnx_file.ExportError, match="the length 'M' of 't'"):
        onnx_file.cut(graph, ["x"], {"model.n": "n"})
