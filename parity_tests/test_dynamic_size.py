"""ONNX files with dynamic height and width: equal signatures, and right at sizes that the export has not seen."""

import numpy as np
import onnx
import pytest

from parity_tests.harness.case import cases
from parity_tests.harness.measure import Proof
from weights import onnx_file

# a fully convolutional network of every kind, and one that resizes to sizes it works out
NAMES = ("resnet18", "mobilenet_v2", "cyclegan_resnet_6blocks", "fcn_r50_d8", "unet_bilinear")
OTHER = ((97, 65), (128, 160))


@pytest.mark.parametrize("name", NAMES)
def test_one_file_serves_every_size(name, tmp_path):
    proof = Proof(cases()[name])
    twins, (inputs, _) = proof.twins("float32"), proof.arrays()
    signatures = []
    for panel in twins:
        path = panel.export(tmp_path / f"{panel.package}.onnx", inputs, None, {}, dynamic_size=True)
        model = onnx.load(path)
        signatures.append(
            sorted(
                (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
                for value in (*model.graph.input, *model.graph.output)
            )
        )
        session = onnx_file.session(path)
        for height, width in OTHER:
            rng = np.random.default_rng(height)
            feed = {
                k: rng.standard_normal((3, x.shape[1], height, width)).astype(np.float32) for k, x in inputs.items()
            }
            own, found = panel.outputs(feed), onnx_file.run(session, feed)
            assert max(onnx_file.relative(found[key], own[key]) for key in own) < 1e-5
    assert signatures[0] == signatures[1]
    assert any(shape == ["N", 3, "H", "W"] for _, shape in signatures[0])


def test_a_model_without_images_says_so(tmp_path):
    proof = Proof(cases()["crf_nll"])
    inputs, _ = proof.arrays()
    for panel in proof.twins("float32"):
        with pytest.raises(onnx_file.ExportError, match="no input is an image"):
            panel.export(tmp_path / "a.onnx", inputs, None, {}, dynamic_size=True)
    assert not list(tmp_path.iterdir())
