"""YOLOv2: darknet's memory order and its losses, in both panels, against rules written as plain loops."""

import importlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.detection import padded

PANELS = {
    "tf_impl": lambda x: tf.constant(x.transpose(0, 2, 3, 1)),
    "torch_impl": lambda x: torch.from_numpy(np.array(x)),
}
ANCHORS = ((0.6, 0.7), (1.9, 2.1))
both = pytest.mark.parametrize("package", list(PANELS))


@pytest.fixture(autouse=True)
def in_float64():
    """Keras casts what a layer is given to the type that the layer was made with."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@both
def test_reorganisation_is_the_loop_of_darknet(package):
    n, c, h, w, stride = 2, 8, 4, 6, 2
    x = np.arange(n * c * h * w, dtype=np.float64).reshape(n, c, h, w)
    flat, expected = x.ravel(), np.zeros(x.size)
    out_c = c // stride**2
    for b in range(n):
        for k in range(c):
            for j in range(h):
                for i in range(w):
                    source = i + w * (j + h * (k + c * b))
                    c2, offset = k % out_c, k // out_c
                    w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                    target = w2 + w * stride * (h2 + h * stride * (c2 + out_c * b))
                    expected[source] = flat[target]
    found = importlib.import_module(f"{package}.detection._darknet").reorganise(PANELS[package](x))
    found = found.numpy().transpose(0, 3, 1, 2) if package == "tf_impl" else found.numpy()
    np.testing.assert_array_equal(found, expected.reshape(n, c * stride**2, h // stride, w // stride))


def overlap(a, b):
    """IoU of two boxes, centre and size."""
    low = [max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in range(2)]
    high = [min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) for i in range(2)]
    shared = max(high[0] - low[0], 0) * max(high[1] - low[1], 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def plain_losses(x, objects, threshold, object_scale, rescore):
    """One image's losses: loops over cells, anchors and objects."""
    _, height, width = x.shape
    rows = x.reshape(len(ANCHORS), -1, height, width)
    owner = {}
    for box, label in zip(*objects):
        box = np.array([box[0] + box[2], box[1] + box[3], 2 * (box[2] - box[0]), 2 * (box[3] - box[1])]) / 64
        best = max(range(len(ANCHORS)), key=lambda a: overlap((0, 0, *ANCHORS[a]), (0, 0, *box[2:])))
        owner[best, int(box[1]), int(box[0])] = box, label
    found = dict.fromkeys(("loss_coord", "loss_object", "loss_class", "loss_prior"), 0.0)
    every = [np.array([b[0] + b[2], b[1] + b[3], 2 * (b[2] - b[0]), 2 * (b[3] - b[1])]) / 64 for b in objects[0]]
    for a, (aw, ah) in enumerate(ANCHORS):
        for j in range(height):
            for i in range(width):
                tx, ty, tw, th, t0, *classes = rows[a, :, j, i]
                sx, sy, s0 = (1 / (1 + math.exp(-t)) for t in (tx, ty, t0))
                box = (i + sx, j + sy, math.exp(tw) * aw, math.exp(th) * ah)
                if (a, j, i) not in owner:
                    found["loss_prior"] += 0.5 * 0.01 * ((sx - 0.5) ** 2 + (sy - 0.5) ** 2 + tw**2 + th**2)
                    if max((overlap(box, other) for other in every), default=0) <= threshold:
                        found["loss_object"] += 0.5 * s0**2
                    continue
                goal, label = owner[a, j, i]
                weight = 2 - goal[2] * goal[3] / (height * width)
                found["loss_coord"] += 0.5 * weight * ((sx - goal[0] + i) ** 2 + (sy - goal[1] + j) ** 2)
                found["loss_coord"] += 0.5 * weight * (tw - math.log(goal[2] / aw)) ** 2
                found["loss_coord"] += 0.5 * weight * (th - math.log(goal[3] / ah)) ** 2
                target = overlap(box, goal) if rescore else 1.0
                found["loss_object"] += 0.5 * object_scale * (s0 - target) ** 2
                found["loss_class"] += math.log(sum(math.exp(c) for c in classes)) - classes[label]
    return found


@both
@pytest.mark.parametrize("rescore", [True, False])
def test_losses_are_the_rule(package, rescore):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2 * 8, 3, 4))
    x[0, :4, 1, 2] = 0.0  # its box is the anchor's, in the middle of its cell
    objects = [
        (np.array([[70.0, 38, 90, 58], [3, 5, 80, 60], [70, 40, 88, 59]]), np.array([0, 2, 1])),
        (np.array([[100.0, 60, 127, 95]]), np.array([1])),
        (np.zeros((0, 4)), np.zeros(0, np.int64)),
    ]
    module = importlib.import_module(f"{package}.detection.yolov2")
    criterion = module.YOLOV2Criterion(ANCHORS, 0.3, 5.0, rescore, 0.01)
    targets = padded(objects)
    tensor = tf.constant if package == "tf_impl" else lambda value: torch.from_numpy(np.array(value))
    found = criterion(PANELS[package](x), {key: tensor(value) for key, value in targets.items()})
    single = [plain_losses(x[i], objects[i], 0.3, 5.0, rescore) for i in range(3)]
    for key in single[0]:
        assert float(found[key]) == pytest.approx(sum(losses[key] for losses in single) / 3, rel=1e-12), key
