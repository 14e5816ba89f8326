"""YOLACT++'s priors and its network of the masks' IoU, against the reference's."""

import importlib

import numpy as np
import pytest

from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from tf_impl import state
from weights.seeded import seeded

FILE = "yolact_plus_resnet50"
panels = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])


def close(name, found, expected):
    for figure in compare_with_fingerprint(name, found, expected["outputs"][name]):
        assert figure.relative < 1e-5, figure


@panels
def test_priors_are_those_of_the_reference(package):
    module = importlib.import_module(f"{package}.segmentation.yolact_plus")
    assert len(module.priors((69, 69), module.SIZES, 550, square=False)) == 57744
    corners = module.priors((34, 35), module.SIZES, 550, square=False)
    low, high = corners[:, :2], corners[:, 2:]
    close("priors", np.concatenate([(low + high) / 2, high - low], 1), fingerprints.load(FILE))


def test_iou_of_masks_in_tensorflow():
    import tensorflow as tf

    from tf_impl.segmentation.yolact_plus import MaskIoUNet

    expected = fingerprints.load(FILE)
    given = fingerprints.inputs_of(expected)["maskiou_in"].astype(np.float32)
    masks = tf.sigmoid(given.transpose(0, 2, 3, 1))
    network = MaskIoUNet(80)
    network(masks)
    values = seeded({f"maskiou_net.{name}": value.shape for name, value in state.state_dict(network).items()})
    state.load_state_dict(network, {name.partition(".")[2]: value for name, value in values.items()})
    close("maskiou", network(masks).numpy(), expected)


def test_iou_of_masks_in_pytorch():
    import torch

    from torch_impl.segmentation.yolact_plus import MaskIoUNet

    expected = fingerprints.load(FILE)
    masks = torch.sigmoid(torch.from_numpy(fingerprints.inputs_of(expected)["maskiou_in"].astype(np.float32)))
    network = MaskIoUNet(80)
    values = seeded({f"maskiou_net.{name}": tuple(value.shape) for name, value in network.state_dict().items()})
    network.load_state_dict({name.partition(".")[2]: torch.from_numpy(value) for name, value in values.items()})
    with torch.no_grad():
        close("maskiou", network(masks).numpy(), expected)
