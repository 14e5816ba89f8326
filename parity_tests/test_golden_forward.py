"""Published detectors with weights and images from a hash of their positions, against numbers of the references.

In PyTorch alone, except for RetinaNet: the twin computes the same, as the cases show. Numbers are mean, mean size and
the element at a third.
"""

import math

import numpy as np
import pytest
import torch

from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog

BUILT = ("num_batches_tracked", "anchors")  # tensors that are left as they are built
NUMBERS = {
    ("ssd300_vgg16", 300): {
        "bbox_regression": (-0.0166719, 0.0510968, 0.00436801),
        "cls_logits": (-0.00131777, 0.0533264, -0.0329377),
    },
    ("fcos_resnet50_fpn", 128): {
        "bbox_ctrness": (-1.00376, 1.0083, -0.791491),
        "bbox_regression": (0.352285, 0.352285, 0),
        "cls_logits": (0.012793, 0.604231, -0.807703),
    },
    ("tf_efficientdet_d0", 128): {
        "class_p3": (-0.00108041, 0.0455139, -0.0444236),
        "box_p3": (0.00407469, 0.0464573, -0.0163633),
        "class_p7": (-0.000705532, 0.0273219, -0.00978861),
    },
    ("yolov3_d53", 96): {
        "pred_p5": (-1.68419, 26.1808, -13.8438),
        "pred_p4": (0.461738, 16.9323, -6.49894),
        "pred_p3": (0.0019972, 2.14611, 1.474),
    },
    ("yolov4", 96): {
        "pred_p3": (-0.00620543, 0.0544144, 0.0651137),
        "pred_p4": (-0.00361818, 0.0445121, -0.0255384),
        "pred_p5": (-0.00686225, 0.0430183, -0.0346032),
    },
    ("yolov5s", 96): {
        "pred_p3": (0.00241479, 0.0345963, -0.0171745),
        "pred_p4": (-0.00136449, 0.033611, 0.0304405),
        "pred_p5": (-0.000637965, 0.0330858, -0.0700316),
    },
    ("fcos_r50_caffe_gn", 128): {
        "cls_p3": (0.00371785, 0.559663, 0.76392),
        "reg_p5": (0.677986, 0.677986, 0.373831),
        "ctr_p7": (0.301574,) * 3,
    },
    ("fovea_r50_fpn_gn_align", 128): {
        "cls_p3": (-0.142428, 0.638076, 0.126301),
        "reg_p3": (0.0347968, 0.610063, -0.554905),
        "reg_p7": (0.186562, 0.196849, 0.351058),
    },
    ("atss_r50_fpn", 128): {
        "cls_p3": (0.0675515, 0.603621, 0.873405),
        "reg_p5": (0.0526162, 0.362069, 0.285114),
        "ctr_p7": (-0.0477832, 0.0477832, -0.0477832),
    },
    ("reppoints_moment_r50_fpn_gn", 128): {
        "cls_p3": (-0.0278375, 0.458506, -0.578128),
        "reg_p3": (-0.0928194, 3.2443, -3.70992),
        "reg_p7": (-0.0926513, 1.60772, -1.3176),
    },
    ("cornernet_hourglass104", 127): {
        "tl_heat_0": (0.249303, 5.58837, 2.01054),
        "tl_heat": (2.72549, 67.6292, -20.5188),
        "br_regr": (33.9033, 67.0036, -38.5954),
    },
    ("centernet_resdcn18", 128): {
        "hm": (0.00733091, 0.0400672, 0.0394089),
        "wh": (0.0361979, 0.0437964, 0.0693601),
        "reg": (0.00282843, 0.0435414, -0.0514457),
    },
    ("centernet_dla34", 128): {
        "hm": (-0.00319362, 0.0405986, 0.0606359),
        "wh": (0.0341925, 0.0370294, 0.0201426),
        "reg": (0.00717129, 0.0143775, 0.0330255),
    },
}


def noise(shape, k: float) -> np.ndarray:
    x = 43758.5453 * np.sin(12.9898 * np.arange(math.prod(shape), dtype=np.float64) + 78.233 * k)
    return (2 * (x - np.floor(x)) - 1).reshape(shape)


def filled(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    values = {}
    for k, name in enumerate(sorted(name for name in shapes if not name.endswith(BUILT)), start=1):
        shape = shapes[name]
        u = noise(shape, k)
        if name.endswith("running_var"):
            u = 1 + 0.2 * u
        elif name.endswith("running_mean"):
            u = 0.05 * u
        elif len(shape) > 1:
            u = u * math.sqrt(3.9 / math.prod(shape[1:]))
        else:
            u = 0.05 * u if name.endswith("bias") else 1 + 0.1 * u
        values[name] = u.astype(np.float32)
    return values


def built(model: str, cls=PyTorch) -> PyTorch | TensorFlow:
    panel = cls(catalog.get(model), {}, precision="float32")
    panel.load(panel.state() | filled(panel.shapes()))
    return panel


def check(x: np.ndarray, expected: tuple[float, float, float]):
    numbers = x.mean(), np.abs(x).mean(), x.ravel()[x.size // 3]
    assert numbers == pytest.approx(expected, rel=1e-3, abs=1e-3 * expected[1])


@pytest.mark.parametrize("cls", [TensorFlow, PyTorch], ids=["tf_impl", "torch_impl"])
def test_golden_forward_pass_in_both_panels(cls):
    found = built("retinanet_resnet50_fpn", cls).outputs({"images": noise((1, 3, 128, 128), 0.5)})
    for key, expected in (
        ("bbox_regression", (-0.218838, 4.29258, 9.11241)),
        ("cls_logits", (0.194685, 3.40451, -2.84686)),
    ):
        x = found[key]
        assert (x.mean(), np.abs(x).mean(), x.ravel()[x.size // 3]) == pytest.approx(expected, rel=1e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("model, size", NUMBERS)
def test_golden_forward_pass(model, size):
    found = built(model).outputs({"images": noise((1, 3, size, size), 0.5)})
    for key, expected in NUMBERS[model, size].items():
        x = found[key]
        check(x.transpose(0, 1, 4, 2, 3) if x.ndim == 5 else x, expected)  # the reference's map has channels second


@pytest.mark.slow
def test_golden_forward_pass_of_detr():
    """An image and its upper left corner."""
    image, mask = noise((3, 96, 128), 0.5), np.zeros((2, 96, 128), bool)
    mask[1, 64:], mask[1, :, 96:] = True, True
    found = built("detr_resnet50").outputs({"images": np.stack((image, image * ~mask[1])), "padding_mask": mask})
    check(found["pred_logits"], (0.0821652, 0.858581, -0.587208))
    check(found["pred_boxes"], (0.597573, 0.597573, 0.632404))
    check(found["pred_logits_0"], (-0.103711, 0.973275, 2.19385))


@pytest.mark.slow
def test_golden_forward_pass_of_path_aggregation():
    model = built("faster_rcnn_r50_pafpn").model.eval()
    with torch.no_grad():
        maps = model.neck(model.backbone(torch.from_numpy(noise((1, 3, 100, 132), 0.5)).float()))
    expected = (
        (0.346217, 10.019, -3.8142),
        (0.847782, 16.4261, 25.5399),
        (1.14616, 18.2006, 22.3271),
        (0.540328, 19.4516, -8.81824),
        (0.482068, 18.2098, -45.2473),
    )
    for x, numbers in zip(maps.values(), expected, strict=True):
        check(x.numpy(), numbers)
