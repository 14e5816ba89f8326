"""RetinaNet: boxes, anchors, assignment, losses and results, in both panels, against rules written as plain loops."""

import importlib
import math
from functools import cache, lru_cache
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch

import tf_impl.state
import torch_impl.state
from parity_tests.cases.detection import padded, stored_objects
from parity_tests.harness import fingerprints
from parity_tests.harness.case import get
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file, store
from weights.seeded import seeded

STRIDES = (8, 16, 32, 64, 128)
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def side(package, tensor):
    """The modules of a panel, and how arrays get in and out."""
    names = (
        "boxes.iou boxes.coders boxes.anchors boxes.assignment losses.focal losses.box detection.retinanet layers.rows"
    )
    modules = {name.split(".")[1]: importlib.import_module(f"{package}.{name}") for name in names.split()}
    return SimpleNamespace(
        package=package,
        pyramid=importlib.import_module(f"{package}.necks.fpn"),
        tensor=tensor,
        tensors=lambda arrays: {key: tensor(value) for key, value in arrays.items()},
        arrays=lambda found: {key: np.asarray(value) for key, value in found.items()},
        **modules,
    )


TF, TORCH = side("tf_impl", tf.constant), side("torch_impl", lambda array: torch.from_numpy(np.array(array)))


@pytest.fixture(autouse=True)
def in_float64():
    """Keras casts what a layer is given to the type that the layer was made with."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


both = pytest.mark.parametrize("panel", [TF, TORCH], ids=["tensorflow", "pytorch"])


def random_boxes(rng, *shape, extent=100.0):
    corner = rng.uniform(0, 0.8 * extent, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 0.5 * extent, (*shape, 2))], -1)


# boxes


def plain_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@both
def test_pairwise_iou(panel):
    rng = np.random.default_rng(0)
    boxes, others = random_boxes(rng, 2, 3), random_boxes(rng, 7)
    found = np.asarray(panel.iou.pairwise_iou(panel.tensor(boxes), panel.tensor(others)))
    expected = [[[plain_iou(a, b) for b in others] for a in image] for image in boxes]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    again = np.asarray(panel.iou.pairwise_iou(panel.tensor(boxes), panel.tensor(others), 1e-6))
    np.testing.assert_allclose(again, expected, rtol=1e-13)
    covered = np.asarray(panel.iou.pairwise_iou(panel.tensor(boxes), panel.tensor(others), mode="iof"))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    other_area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    shared = found / (1 + found) * (area[..., None] + other_area)
    np.testing.assert_allclose(covered, shared / area[..., None], rtol=1e-12)
    empty = panel.tensor(np.array([[3.0, 3, 3, 3]]))
    assert np.asarray(panel.iou.pairwise_iou(empty, empty)) == 0
    assert np.asarray(panel.iou.pairwise_iou(empty, empty, 1e-6)) == 0
    with pytest.raises(ValueError, match="mode='diou' must be 'iou' or 'iof'"):
        panel.iou.pairwise_iou(empty, empty, mode="diou")


@both
def test_generalized_iou(panel):
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 40), random_boxes(rng, 40)
    for guard in ("add", "max"):
        found = np.asarray(panel.iou.generalized_iou(panel.tensor(a), panel.tensor(b), guard=guard))
        expected = []
        for x, y in zip(a, b):
            union = ((x[2] - x[0]) * (x[3] - x[1]) + (y[2] - y[0]) * (y[3] - y[1])) / (1 + plain_iou(x, y))
            around = (max(x[2], y[2]) - min(x[0], y[0])) * (max(x[3], y[3]) - min(x[1], y[1]))
            expected.append(plain_iou(x, y) - (around - union) / around)
        np.testing.assert_allclose(found, expected, atol=1e-7)
        point = panel.tensor(np.array([[3.0, 3, 3, 3]]))
        assert np.isfinite(np.asarray(panel.iou.generalized_iou(point, point, guard=guard))).all()
    with pytest.raises(ValueError, match="guard='none' must be 'add' or 'max'"):
        panel.iou.generalized_iou(panel.tensor(a), panel.tensor(b), guard="none")


@both
def test_coder_and_its_clamps(panel):
    rng = np.random.default_rng(2)
    boxes, anchors = random_boxes(rng, 9), random_boxes(rng, 9)
    stds = (0.1, 0.1, 0.2, 0.3)
    coder = panel.coders.DeltaCoder(stds)
    deltas = coder.encode(panel.tensor(boxes), panel.tensor(anchors))
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    np.testing.assert_allclose(deltas, np.hstack([shift, np.log(wanted / size)]) / stds, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(coder.decode(deltas, panel.tensor(anchors)), boxes, rtol=1e-12)
    square, far = panel.tensor(np.array([[0.0, 0, 16, 16]])), panel.tensor(np.array([[0.0, 0, 9, -9]]))
    for clamp, least in (("upper", math.exp(-9)), ("both", 16 / 1000)):
        decoded = np.asarray(panel.coders.DeltaCoder(clamp=clamp).decode(far, square))[0]
        half_width, half_height = 8 * 1000 / 16, 8 * least
        np.testing.assert_allclose(
            decoded, [8 - half_width, 8 - half_height, 8 + half_width, 8 + half_height], rtol=1e-12
        )
    with pytest.raises(ValueError, match="clamp='lower' must be 'upper' or 'both'"):
        panel.coders.DeltaCoder(clamp="lower")


@both
def test_clipping_by_one_size_or_one_per_image(panel):
    boxes = np.array([[[-5.0, -7, 200, 300]], [[10, 20, 30, 40]]])
    found = panel.coders.clip_boxes(panel.tensor(boxes), panel.tensor(np.array([50, 90])))
    np.testing.assert_array_equal(found, [[[0, 0, 90, 50]], [[10, 20, 30, 40]]])
    found = panel.coders.clip_boxes(panel.tensor(boxes), panel.tensor(np.array([[50, 90], [30, 25]])))
    np.testing.assert_array_equal(found, [[[0, 0, 90, 50]], [[10, 20, 25, 30]]])


# anchors


@both
def test_anchors_of_a_cell(panel):
    sizes = [32 * 2 ** (i / 3) for i in range(3)]
    cell = panel.anchors.cell_anchors(sizes, (0.5, 1.0, 2.0))
    widths = [22.6274, 28.5088, 35.9188, 16, 20.1587, 25.3984, 11.3137, 14.2544, 17.9594]
    np.testing.assert_allclose(cell[:, 2], widths, atol=1e-4)
    np.testing.assert_allclose(cell[:, 3], [*widths[6:], *widths[3:6], *widths[:3]], atol=1e-4)
    np.testing.assert_array_equal(cell[:, :2], -cell[:, 2:])
    # halves go to the even side: 101 / 2 = 50.5 -> 50, 203 / 2 = 101.5 -> 102
    assert panel.anchors.cell_anchors([101, 203], [1.0], True)[:, 2].tolist() == [50, 102]


@both
def test_anchors_of_a_map(panel):
    cell = panel.anchors.cell_anchors([4, 8], [1.0])
    found = panel.anchors.grid_anchors(cell, (2, 3), (5, 7), 0.5).reshape(2, 3, 2, 4)
    for y, x, k in np.ndindex(2, 3, 2):
        cy, cx, half = (y + 0.5) * 5, (x + 0.5) * 7, (2, 4)[k]
        np.testing.assert_array_equal(found[y, x, k], [cx - half, cy - half, cx + half, cy + half])


def test_anchors_of_torchvision():
    expected = fingerprint("torchvision_retinanet_resnet50_fpn")["outputs"]["anchors_image0"]
    for panel in (TF, TORCH):
        anchors = np.concatenate(list(anchors_of(panel, (128, 160), True).values()))
        for figure in compare_with_fingerprint("anchors", anchors, expected):
            assert figure.relative < 1e-6, figure


def anchors_of(panel, image, rounded):
    """RetinaNet's anchors of all levels by name, for an image whose size is given."""
    found, size = {}, image
    for _ in range(2):
        size = tuple((n + 1) // 2 for n in size)
    for level, stride in zip(LEVELS, STRIDES):
        size = tuple((n + 1) // 2 for n in size)
        sizes = [4 * stride * 2 ** (i / 3) for i in range(3)]
        cell = panel.anchors.cell_anchors([int(s) for s in sizes] if rounded else sizes, (0.5, 1.0, 2.0), rounded)
        steps = tuple(n // m for n, m in zip(image, size)) if rounded else (stride, stride)
        found[f"anchors_{level}"] = panel.anchors.grid_anchors(cell, size, steps)
    return found


# assignment


def plain_assignment(iou, valid, positive, negative, low_quality, min_positive, zero_matches):
    """The references' rules, one anchor and one ground truth after the other."""
    slots = np.flatnonzero(valid)
    matched = np.full(iou.shape[1], -1)
    if not len(slots):
        return matched
    own = [slots[np.argmax(column[slots])] for column in iou.T]
    for a, m in enumerate(own):
        matched[a] = m if iou[m, a] >= positive else -1 if iou[m, a] < negative else -2
    for m in slots:
        highest = iou[m].max()
        if low_quality is None or highest < min_positive or (highest == 0 and not zero_matches):
            continue
        for a in np.flatnonzero(iou[m] == highest):
            matched[a] = m if low_quality == "forced" else own[a]
    return matched


@both
@pytest.mark.parametrize("low_quality", ["own", "forced", None])
@pytest.mark.parametrize("min_positive, zero_matches", [(0.0, True), (0.0, False), (0.3, True)])
def test_assignment_is_the_rule(panel, low_quality, min_positive, zero_matches):
    rng = np.random.default_rng(3)
    iou = np.round(rng.uniform(0, 0.8, (40, 4, 11)), 1)  # many ties
    iou[::3, 1] = 0  # a ground truth that overlaps nothing
    iou[::4, 3] = iou[::4, 2]  # two equal ones
    valid = rng.random((40, 4)) < 0.7
    valid[5] = False
    iou[~valid] = np.nan
    options = dict(low_quality=low_quality, min_positive=min_positive, zero_matches=zero_matches)
    found = panel.assignment.assign_max_iou(panel.tensor(iou), panel.tensor(valid), 0.5, 0.4, **options)
    expected = [plain_assignment(np.nan_to_num(a), b, 0.5, 0.4, *options.values()) for a, b in zip(iou, valid)]
    np.testing.assert_array_equal(found, expected)
    assert {-1, -2} <= set(np.unique(expected))


@both
def test_assignment_of_two_equal_objects(panel):
    """torchvision gives their anchors to the first, mmdet to the last."""
    iou = np.array([[[0.7, 0.45, 0.2], [0.7, 0.45, 0.2]]])
    valid = np.ones((1, 2), bool)
    for low_quality, expected in (("own", [0, -2, -1]), ("forced", [1, -2, -1])):
        found = panel.assignment.assign_max_iou(panel.tensor(iou), panel.tensor(valid), low_quality=low_quality)
        assert np.asarray(found)[0].tolist() == expected
    with pytest.raises(ValueError, match="low_quality='all' must be 'own', 'forced' or None"):
        panel.assignment.assign_max_iou(panel.tensor(iou), panel.tensor(valid), low_quality="all")


@both
def test_rows_by_index(panel):
    values = np.arange(144).reshape(2, 3, 4, 2, 3)
    index = np.array([[2, -1], [-2, 1]])
    for rows in (values[..., 0, 0, 0], values[..., 0, 0], values[..., 0], values):
        found = panel.rows.take_rows(panel.tensor(rows), panel.tensor(index))
        np.testing.assert_array_equal(found, [rows[0, [2, 0]], rows[1, [0, 1]]])


# elementary losses


@both
def test_focal_loss(panel):
    x = np.array([-700.0, -30, -1.5, 0, 0.3, 2, 30, 700])
    for y in (0.0, 1.0):
        for alpha, gamma in ((0.25, 2.0), (-1.0, 1.5), (0.7, 0.0)):
            found = panel.focal.sigmoid_focal_loss(panel.tensor(x), panel.tensor(np.full(8, y)), alpha, gamma)
            signed = -x if y else x  # logit of the wrong answer
            entropy = np.logaddexp(0, signed)
            weight = 1.0 if alpha < 0 else alpha if y else 1 - alpha
            expected = weight * np.exp(-gamma * np.logaddexp(0, -signed)) * entropy
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-15)


@both
def test_box_losses(panel):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 6, 4))
    b[0] = a[0]
    x, y = panel.tensor(a), panel.tensor(b)
    np.testing.assert_allclose(panel.box.l1_loss(x, y), np.abs(a - b).sum(-1), rtol=1e-13)
    d = np.abs(a - b)
    np.testing.assert_allclose(
        panel.box.smooth_l1_loss(x, y, 0.5), np.where(d < 0.5, d * d, d - 0.25).sum(-1), rtol=1e-13
    )
    boxes = random_boxes(rng, 5)
    np.testing.assert_allclose(panel.box.giou_loss(panel.tensor(boxes), panel.tensor(boxes)), 0, atol=1e-8)


# the pyramid


C3 = {"c3": 512, "c4": 1024, "c5": 2048}


@pytest.mark.parametrize(
    "options, count",
    [
        ({"in_channels": C3, "extra": "on_input"}, 7_997_440),
        ({"in_channels": C3, "extra": "on_output"}, 3_868_672),
        ({"in_channels": C3, "extra": "on_lateral"}, 3_868_672),
        ({"in_channels": {"c2": 256, **C3}, "extra": "pool"}, 3_344_384),
        ({"in_channels": C3, "extra": "on_input", "norm": "group"}, 7_999_488),
    ],
)
def test_pyramid_has_the_published_size(options, count):
    with torch.device("meta"):
        pyramid = TORCH.pyramid.FPN(**options)
    assert sum(p.numel() for p in pyramid.parameters()) == count


@pytest.mark.parametrize(
    "name, options, levels",
    [
        ("FPN", {"extra": "pool", "num_outs": 5}, 5),
        ("FPN", {"extra": "on_input", "norm": "group", "norm_groups": 2, "relu_before_extra": True}, 5),
        ("FPN", {"extra": "on_output", "norm": "batch", "num_outs": 4}, 4),
        ("FPN", {"extra": "on_lateral"}, 5),
        ("FeaturePyramidNetwork", {}, 3),
        ("FeaturePyramidNetwork", {"extra": "pool"}, 4),
        ("FeaturePyramidNetwork", {"extra": "on_input"}, 5),
        ("FeaturePyramidNetwork", {"extra": "on_output"}, 5),
    ],
)
def test_pyramids_are_twins(name, options, levels):
    sizes, channels = [(9, 13), (5, 7), (3, 4)], {"c3": 3, "c4": 4, "c5": 5}
    rng = np.random.default_rng(5)
    maps = {
        name: rng.standard_normal((2, c, *size)).astype(np.float32) for (name, c), size in zip(channels.items(), sizes)
    }
    theirs = getattr(TORCH.pyramid, name)(channels, 6, **options).eval()
    ours = getattr(TF.pyramid, name)(channels, 6, **options)
    given = {name: tf.constant(x.transpose(0, 2, 3, 1)) for name, x in maps.items()}
    ours(given)
    values = seeded({key: tuple(value.shape) for key, value in theirs.state_dict().items()})
    theirs.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in values.items()})
    tf_impl.state.load_state_dict(ours, values)
    found, expected = ours(given), theirs({name: torch.from_numpy(x) for name, x in maps.items()})
    assert list(found) == list(expected) == [f"p{i}" for i in range(3, 3 + levels)]
    for x, y in zip(found.values(), expected.values()):
        assert onnx_file.relative(np.transpose(x, (0, 3, 1, 2)), y.detach().numpy()) < 1e-5


@pytest.mark.parametrize("extra", ["on_input", "on_lateral", "on_output"])
@pytest.mark.parametrize("relu", [False, True])
def test_levels_beyond_the_maps_come_from_where_they_should(extra, relu):
    torch.manual_seed(0)
    maps = [torch.randn(1, 6, 8, 8), torch.randn(1, 6, 4, 4)]
    pyramid = TORCH.pyramid.FPN({"c4": 6, "c5": 6}, 6, 4, extra, relu)
    levels = list(pyramid({"c4": maps[0], "c5": maps[1]}).values())
    source = {"on_input": maps[1], "on_lateral": pyramid.lateral_convs[1](maps[1]), "on_output": levels[1]}[extra]
    torch.testing.assert_close(levels[2], pyramid.fpn_convs[2].conv(source))
    before = levels[2].clamp(min=0) if relu else levels[2]  # mmdet has no ReLU, unless it is told to
    torch.testing.assert_close(levels[3], pyramid.fpn_convs[3].conv(before))


def test_pyramids_refuse_an_unknown_level():
    for panel in (TF, TORCH):
        with pytest.raises(ValueError, match="extra='p6' must be None, 'pool', 'on_input' or 'on_output'"):
            panel.pyramid.FeaturePyramidNetwork({"c4": 3, "c5": 4}, 5, "p6")
        with pytest.raises(ValueError, match="extra='p6' must be 'pool', 'on_input', 'on_lateral' or 'on_output'"):
            panel.pyramid.FPN({"c4": 3, "c5": 4}, 5, extra="p6")
        with pytest.raises(ValueError, match="norm='layer' must be None, 'batch' or 'group'"):
            panel.pyramid.ConvModule(*(3, 4, 1)[panel is TF :], norm="layer")


# the criterion


def wave(shape, a, b, phase):
    """The golden values' inputs: b + a sin(0.7371 i + phase) at flat index i."""
    return (b + a * np.sin(0.7371 * np.arange(math.prod(shape)) + phase)).reshape(shape).astype(np.float32)


def golden_scene():
    boxes = [
        [(12.3, 20.1, 100.7, 90.9), (30, 40, 62, 75.5), (150.2, 100.3, 250.1, 240.8), (5.5, 200, 25, 225)],
        [(60, 60, 200, 210), (64.4, 70.2, 110.9, 140.6)],
    ]
    labels = [[1, 0, 4, 2], [3, 3]]
    targets = padded([(np.array(b), np.array(k)) for b, k in zip(boxes, labels)])
    return {**targets, "boxes": targets["boxes"].astype(np.float32)}


def outputs_of(panel, logits, deltas, image, rounded, dtype=np.float32):
    anchors = {key: value.astype(dtype) for key, value in anchors_of(panel, image, rounded).items()}
    sizes = {"image_size": np.array(image)}
    return panel.tensors({"cls_logits": logits, "bbox_regression": deltas, **anchors, **sizes})


def losses_of(panel, criterion, outputs, targets):
    found = criterion(outputs, panel.tensors(targets))
    return {key: float(value) for key, value in found.items()}


@both
def test_golden_losses_of_torchvision(panel):
    outputs = outputs_of(panel, wave((2, 12276, 6), 2, -2, 0.1), wave((2, 12276, 4), 0.3, 0, 0.2), (256, 256), True)
    scene = golden_scene()
    scene["labels"] = scene["labels"] + scene["valid"]
    found = losses_of(panel, panel.retinanet.RetinaNetCriterion(), outputs, scene)
    assert found["classification"] == pytest.approx(29.600698, rel=1e-6)
    assert found["bbox_regression"] == pytest.approx(0.978820, rel=1e-6)
    assert found["total"] == pytest.approx(29.600698 + 0.978820, rel=1e-6)
    found = losses_of(panel, panel.retinanet.retinanet_v2_criterion(), outputs, scene)
    assert found["bbox_regression"] == pytest.approx(0.672601, rel=2e-6)


@both
def test_golden_losses_of_mmdet(panel):
    logits, deltas = [], []
    for k, size in enumerate((32, 16, 8, 4, 2)):
        for rows, channels, numbers in ((logits, 5, (2, -2, 0.1)), (deltas, 4, (0.3, 0, 0.2))):
            x = wave((2, 9 * channels, size, size), *numbers[:2], numbers[2] + k)
            x = x.reshape(2, 9, channels, size, size).transpose(0, 3, 4, 1, 2)
            rows.append(x.reshape(2, -1, channels))
    outputs = outputs_of(panel, np.concatenate(logits, 1), np.concatenate(deltas, 1), (256, 256), False)
    found = losses_of(panel, panel.retinanet.retinanet_mmdet_criterion(), outputs, golden_scene())
    assert list(found) == ["loss_cls", "loss_bbox", "total"]
    assert found["loss_cls"] == pytest.approx(23.508104, rel=1e-6)
    assert found["loss_bbox"] == pytest.approx(0.926939, rel=1e-6)


CRITERIA = ("RetinaNetCriterion", "retinanet_v2_criterion", "retinanet_mmdet_criterion")


def scene(classes=5, batch=2, seed=6):
    """Random outputs for a small image, and targets with padding."""
    rng = np.random.default_rng(seed)
    image = (97, 81)
    rows = sum(len(a) for a in anchors_of(TORCH, image, True).values())
    logits, deltas = rng.standard_normal((batch, rows, classes)), 0.3 * rng.standard_normal((batch, rows, 4))
    boxes = random_boxes(rng, batch, 4, extent=80)
    valid = np.arange(4) < np.array([3, 1, 2])[:batch, None]
    targets = {"boxes": boxes, "labels": rng.integers(0, classes, (batch, 4)), "valid": valid}
    return image, logits, deltas, targets


@both
@pytest.mark.parametrize("criterion", CRITERIA)
def test_padding_influences_nothing(panel, criterion):
    image, logits, deltas, targets = scene()
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    criterion = getattr(panel.retinanet, criterion)()
    expected = losses_of(panel, criterion, outputs, targets)
    # slot 3 holds nothing; it is put before, between and behind the others, whose order could decide ties
    moved = {key: value[:, [3, 0, 3, 1, 2, 3]] for key, value in targets.items()}
    empty = ~moved["valid"]
    moved["boxes"][empty], moved["labels"][empty] = np.nan, 10**6
    assert losses_of(panel, criterion, outputs, moved) == pytest.approx(expected, rel=1e-12)


@both
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("absence", ["no object", "no slot holds one", "without area"])
def test_images_without_objects_are_background(panel, criterion, absence):
    image, logits, deltas, targets = scene()
    if absence == "no object":
        targets = {key: value[:, :1] for key, value in targets.items()}
    if absence == "without area":
        targets["boxes"][..., 2] = targets["boxes"][..., 0]
    else:
        targets["valid"] = np.zeros_like(targets["valid"])
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    found = losses_of(panel, getattr(panel.retinanet, criterion)(), outputs, targets)
    p = 1 / (1 + np.exp(-logits))
    background = (0.75 * p**2 * np.logaddexp(0, logits)).sum() / 2  # two images, each divided by 1
    assert found["total"] == pytest.approx(background, rel=1e-6)
    names = [name for name in found if "bbox" in name]
    assert found[names[0]] == 0


@both
@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradients_are_finite_in_the_corners(panel, criterion):
    """Huge logits and deltas, objects without area, NaN in the padding."""
    image, logits, deltas, targets = scene()
    logits, deltas = logits * 300, deltas * 100
    targets["boxes"][0, 0, 2:] = targets["boxes"][0, 0, :2]
    targets["boxes"][~targets["valid"]] = np.nan
    outputs = outputs_of(panel, logits.astype(np.float32), deltas.astype(np.float32), image, True)
    given = [outputs["cls_logits"], outputs["bbox_regression"]]
    targets = panel.tensors({**targets, "boxes": targets["boxes"].astype(np.float32)})
    criterion = getattr(panel.retinanet, criterion)()
    if panel is TF:
        with tf.GradientTape() as tape:
            tape.watch(given)
            total = criterion(outputs, targets)["total"]
        gradients = tape.gradient(total, given)
    else:
        for x in given:
            x.requires_grad_()
        total = criterion(outputs, targets)["total"]
        gradients = torch.autograd.grad(total, given)
        total = total.detach()
    assert np.isfinite(np.asarray(total))
    assert all(np.isfinite(np.asarray(g)).all() and np.asarray(g).any() for g in gradients)


@both
def test_one_class_and_one_image(panel):
    image, logits, deltas, targets = scene(classes=1, batch=1)
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    by_image = losses_of(panel, panel.retinanet.RetinaNetCriterion(low_quality="forced"), outputs, targets)
    by_batch = losses_of(
        panel, panel.retinanet.RetinaNetCriterion(low_quality="forced", normalise="batch"), outputs, targets
    )
    assert by_image == pytest.approx(
        by_batch, rel=1e-6
    )  # one image: the divisors are the same, but for mmdet's epsilon
    found = panel.arrays(panel.retinanet.RetinaNetPostProcess(detections=7)(outputs))
    assert not found["labels"].any() and found["valid"].shape == (1, 7)


@both
def test_normalisation_by_image_and_by_batch(panel):
    """An image without objects counts as one match in both."""
    image, logits, deltas, targets = scene(batch=3)
    targets["valid"][2] = False
    both_ways = []
    for normalise in ("image", "batch"):
        criterion = panel.retinanet.RetinaNetCriterion(normalise=normalise)
        outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
        both_ways.append(losses_of(panel, criterion, outputs, targets)["classification"])
    parts, counts = [], []
    for i in range(3):
        outputs = outputs_of(panel, logits[i : i + 1], deltas[i : i + 1], image, True, np.float64)
        one = {key: value[i : i + 1] for key, value in targets.items()}
        parts.append(losses_of(panel, panel.retinanet.RetinaNetCriterion(), outputs, one)["classification"])
        anchors = np.concatenate(list(anchors_of(panel, image, True).values()))
        iou = np.array([[plain_iou(box, anchor) for anchor in anchors] for box in one["boxes"][0]])
        counts.append(max((plain_assignment(iou, one["valid"][0], 0.5, 0.4, "own", 0.0, True) >= 0).sum(), 1))
    assert both_ways[0] == pytest.approx(np.mean(parts), rel=1e-12)
    assert both_ways[1] == pytest.approx(np.dot(parts, counts) / np.sum(counts), rel=1e-6)


@both
def test_the_last_of_equal_objects_counts_for_mmdet_alone(panel):
    image, logits, deltas, targets = scene()
    targets["boxes"][:, 1] = targets["boxes"][:, 0]
    targets["labels"][:, :2] = 0, 1
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    for name in CRITERIA:
        found = []
        for second in (True, False):
            targets["valid"][:] = [True, second, False, False]
            found.append(losses_of(panel, getattr(panel.retinanet, name)(), outputs, targets)["total"])
        assert (found[0] == pytest.approx(found[1], rel=1e-12)) == ("mmdet" not in name)


def test_unknown_options_are_refused():
    for panel in (TF, TORCH):
        with pytest.raises(ValueError, match="box_loss='iou' must be 'l1', 'smooth_l1' or 'giou'"):
            panel.retinanet.RetinaNetCriterion(box_loss="iou")
        with pytest.raises(ValueError, match="normalise='level' must be 'image' or 'batch'"):
            panel.retinanet.RetinaNetCriterion(normalise="level")


# the post-process


def plain_results(logits, deltas, anchors, image, threshold, candidates, overlap, detections, both_clamps, drop_empty):
    """One image's results: loops over levels, candidates and kept boxes."""
    found, start = [], 0
    for level in anchors:
        x, d = logits[start : start + len(level)], deltas[start : start + len(level)]
        start += len(level)
        scores = 1 / (1 + np.exp(-x))
        order = np.argsort(-scores.ravel(), kind="stable")[:candidates]
        for a, k in zip(*np.unravel_index(order, x.shape)):
            if scores[a, k] <= threshold:
                continue
            size, centre = level[a, 2:] - level[a, :2], (level[a, 2:] + level[a, :2]) / 2
            ratio = np.minimum(d[a, 2:], math.log(1000 / 16))
            ratio = np.maximum(ratio, -math.log(1000 / 16)) if both_clamps else ratio
            centre, half = centre + d[a, :2] * size, np.exp(ratio) * size / 2
            box = np.clip(np.concatenate([centre - half, centre + half]), 0, [image[1], image[0]] * 2)
            if not (drop_empty and (box[2:] <= box[:2]).any()):
                found.append((scores[a, k], k, box))
    kept = []
    for score, k, box in sorted(found, key=lambda row: -row[0]):
        empty = (box[2:] <= box[:2]).any()
        if all(label != k or empty or plain_overlap(box, other) <= overlap for _, label, other in kept):
            kept.append((score, k, box))
    return kept[:detections]


def plain_overlap(a, b):
    return 0.0 if (b[2:] <= b[:2]).any() else plain_iou(a, b)


@both
@pytest.mark.parametrize(
    "form, options",
    [
        ("RetinaNetPostProcess", {"candidates": 60, "detections": 15}),
        ("RetinaNetPostProcess", {"candidates": 700, "detections": 400, "score_threshold": 0.8}),
        ("RetinaNetPostProcess", {"candidates": 25, "iou_threshold": 0.1}),
        ("retinanet_mmdet_postprocess", {"candidates": 60}),
    ],
)
def test_results_are_the_rule(panel, form, options):
    image, logits, deltas, _ = scene(classes=3)
    deltas *= 3  # boxes outside the image, and beyond the clamps
    deltas[:, ::17, 2:] *= 20
    postprocess = getattr(panel.retinanet, form)(**options)
    found = panel.arrays(postprocess(outputs_of(panel, logits, deltas, image, True, np.float64)))
    anchors = list(anchors_of(panel, image, True).values())
    mmdet = form != "RetinaNetPostProcess"
    detections = options.get("detections", 100 if mmdet else 300)
    limits = (options.get("score_threshold", 0.05), options["candidates"], options.get("iou_threshold", 0.5))
    assert found["boxes"].shape == (2, detections, 4)
    for i in range(2):
        expected = plain_results(logits[i], deltas[i], anchors, image, *limits, detections, mmdet, mmdet)
        count = found["valid"][i].sum()
        assert count == len(expected) and found["valid"][i, :count].all()
        for key, column in (("scores", 0), ("labels", 1), ("boxes", 2)):
            np.testing.assert_allclose(found[key][i, :count], [row[column] for row in expected], rtol=1e-9, atol=1e-9)
            assert not found[key][i, count:].any()


@both
def test_scores_at_the_threshold_are_dropped(panel):
    image, logits, deltas, _ = scene(classes=2)
    logits[:] = 0.0  # probability one half exactly
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    assert not np.asarray(panel.retinanet.RetinaNetPostProcess(score_threshold=0.5)(outputs)["valid"]).any()
    found = panel.arrays(panel.retinanet.RetinaNetPostProcess(score_threshold=0.49, candidates=3)(outputs))
    assert found["valid"].any() and (found["scores"][found["valid"]] == 0.5).all()


@both
def test_equal_scores_take_the_lower_index(panel):
    image, logits, deltas, _ = scene(classes=2)
    logits[:], deltas[:] = -9.0, 0.0
    logits[:, 4:8] = 1.0
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    found = panel.arrays(panel.retinanet.RetinaNetPostProcess(candidates=3, iou_threshold=1.0)(outputs))
    assert found["labels"][0, :3].tolist() == [0, 1, 0] and found["valid"][0].sum() == 3


@both
def test_images_of_a_padded_batch_have_their_own_size(panel):
    image, logits, deltas, _ = scene()
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    outputs["image_size"] = panel.tensor(np.array([[60, 50], [97, 81]]))
    boxes = np.asarray(panel.retinanet.RetinaNetPostProcess()(outputs)["boxes"])
    assert boxes[0].max(0).tolist() == [*boxes[0].max(0)[:2], 50, 60] and boxes[1, :, 2].max() > 50


# the network


@cache
def fingerprint(name):
    return fingerprints.load(f"{name}")


@lru_cache(maxsize=2)
def published(name, package, precision):
    """A published model with the seeded weights."""
    panel = {"tf_impl": TensorFlow, "torch_impl": PyTorch}[package]
    built = panel(catalog.get(name), {}, precision=precision)
    built.load(seeded(built.shapes()))
    return built


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_detections_of_torchvision(name, package):
    """Boxes, scores and labels of two images, in order, with ``detections_per_img=30``."""
    expected = fingerprint(f"torchvision_{name}_detections")
    panel = published(name, package, "float32")
    module = importlib.import_module(f"{package}.detection.retinanet")
    panel.postprocess = module.RetinaNetPostProcess(detections=30)
    found = panel.results({"images": fingerprints.inputs_of(expected)["image"]})
    assert found["valid"].all()
    for i in range(2):
        for key in ("boxes", "scores", "labels"):
            described = expected["outputs"][f"detections.{i}.{key}"]
            figures = compare_with_fingerprint(key, found[key][i], described)
            for figure in figures:
                assert figure.relative < (1e-7 if key == "labels" else 1e-4), (i, figure)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_losses_and_gradients_of_torchvision_in_float64(name, package):
    """Where no ReLU changes sides by rounding, the figures are those of the stored digits."""
    expected = fingerprint(f"torchvision_{name}")
    panel = published(name, package, "float64")
    inputs = {"images": fingerprints.inputs_of(expected)["image"]}
    check_losses(panel, inputs, stored_objects(expected), expected["loss"], 1e-5)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("precision, bound", [("float32", 1e-3), pytest.param("float64", 1e-5, marks=pytest.mark.slow)])
def test_losses_and_gradients_of_mmdet(precision, bound, package):
    expected = fingerprint("retinanet_r50_fpn_1x_coco")["loss"]
    terms = {}
    for key, value in expected["terms"].items():  # mmdet's are by level
        terms[key.split(".")[0]] = terms.get(key.split(".")[0], 0.0) + value
    objects = [(np.array(b), np.array(k)) for b, k in zip(*(expected["targets"][key] for key in ("boxes", "labels")))]
    images = np.random.default_rng(0).standard_normal((2, 3, 128, 128)).astype(np.float32)
    panel = published("retinanet_r50_fpn_mmdet", package, precision)
    check_losses(panel, {"images": images}, padded(objects), {**expected, "terms": terms}, bound)


def check_losses(panel, inputs, targets, expected, bound):
    losses = panel.losses(inputs, targets)
    for key, value in expected["terms"].items():
        assert losses[key] == pytest.approx(value, rel=1e-6), key
    gradients = panel.gradients(inputs, targets)
    for name, (norm, mean) in expected["gradients"].items():
        assert np.linalg.norm(gradients[name]) == pytest.approx(norm, rel=bound), name
        assert gradients[name].mean() == pytest.approx(mean, rel=10 * bound, abs=0.1 * bound * norm), name


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_golden_forward_pass(package):
    """Weights and image from a hash of their position, without any generator."""

    def noise(size, k):
        i = np.arange(size, dtype=np.float64)
        x = 43758.5453 * np.sin(12.9898 * i + 78.233 * k)
        return 2 * (x - np.floor(x)) - 1

    panel = published("retinanet_resnet50_fpn", package, "float32")
    shapes = panel.shapes()
    values = {name: np.zeros(shape, np.int64) for name, shape in shapes.items() if name.endswith("num_batches_tracked")}
    for k, name in enumerate(sorted(shapes.keys() - values.keys()), start=1):
        shape = shapes[name]
        u = noise(math.prod(shape), k).reshape(shape)
        if name.endswith("running_var"):
            u = 1 + 0.2 * u
        elif name.endswith("running_mean"):
            u = 0.05 * u
        elif len(shape) > 1:
            u = u * math.sqrt(3.9 / math.prod(shape[1:]))
        else:
            u = 0.05 * u if name.endswith("bias") else 1 + 0.1 * u
        values[name] = u.astype(np.float32)
    before = panel.state()
    panel.load(values)
    found = panel.outputs({"images": noise(3 * 128 * 128, 0.5).reshape(1, 3, 128, 128)})
    panel.load(before)
    for key, expected in (
        ("bbox_regression", (-0.218838, 4.29258, 9.11241)),
        ("cls_logits", (0.194685, 3.40451, -2.84686)),
    ):
        flat = found[key].ravel()
        assert (flat.mean(), np.abs(flat).mean(), flat[flat.size // 3]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", [name for name, model in catalog.load().items() if model.system == "RetinaNet"])
def test_parameter_counts_are_the_published_ones(name):
    model = catalog.get(name)
    with torch.device("meta"):
        built = getattr(importlib.import_module(f"torch_impl.{model.module}"), model.builder)(**model.options)
    assert sum(p.numel() for p in built.parameters()) == model.parameters


def test_official_checkpoint_fits_by_its_old_names():
    """torchvision's file of the first form has the names of 2020, and frozen normalisation without epsilon."""
    checkpoint = catalog.get("retinanet_resnet50_fpn").checkpoint()
    with torch.device("meta"):
        model = TORCH.retinanet.retinanet_resnet50_fpn(**checkpoint.options)
    assert sum(p.numel() for p in model.parameters()) == 34_014_999
    assert model.backbone.body.layer4[2].bn3.eps == 0
    names = list(model.state_dict())
    old = []
    for name in names:
        parts = name.split(".")
        if parts[2] in ("inner_blocks", "layer_blocks"):
            parts = [*parts[:4], parts[5]]
        if parts[2] == "conv":
            parts = [*parts[:3], str(2 * int(parts[3])), parts[5]]
        old.append(".".join(parts))
    assert "head.classification_head.conv.6.weight" in old and "backbone.fpn.inner_blocks.2.bias" in old
    stored = dict.fromkeys([*old, "backbone.body.bn1.num_batches_tracked"], np.zeros(1))
    assert list(store.rename(stored, checkpoint.rename)) == names
    assert list(store.rename(dict.fromkeys(names, np.zeros(1)), checkpoint.rename)) == names


def test_classes_have_the_numbers_of_coco():
    names = (fingerprints.FOLDER.parents[1] / "weights" / "classes" / "coco91.txt").read_text().splitlines()
    assert len(names) == 91 and names[0] == "__background__" and names.count("N/A") == 10
    assert [names[i] for i in (1, 13, 27, 44, 67, 90)] == [
        "person",
        "stop sign",
        "backpack",
        "bottle",
        "dining table",
        "toothbrush",
    ]


def test_initial_probability_of_every_class_is_one_percent():
    (case,) = get("retinanet_resnet50_fpn_v2")
    ours = TF.retinanet.retinanet_resnet50_fpn_v2(**case.options)
    theirs = TORCH.retinanet.retinanet_resnet50_fpn_v2(**case.options)
    ours(tf.zeros((1, 64, 64, 3)))
    for found in (tf_impl.state.state_dict(ours), torch_impl.state.state_dict(theirs)):
        bias = found["head.classification_head.cls_logits.bias"]
        np.testing.assert_allclose(1 / (1 + np.exp(-bias)), 0.01, rtol=1e-5)
        assert 0.009 < found["head.regression_head.bbox_reg.weight"].std() < 0.011


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_results_in_onnx_use_the_operator(package, tmp_path):
    """One NonMaxSuppression and a TopK for each level; one file serves any batch."""
    (case,) = get("retinanet_r50_fpn_mmdet")
    panel = {"tf_impl": TensorFlow, "torch_impl": PyTorch}[package]
    rng = np.random.default_rng(0)
    inputs = case.inputs(rng, 2)
    built = panel(case.entry, case.options, postprocess=case.postprocess, precision="float32")
    built.load(seeded(built.shapes()))
    path = built.export(tmp_path / "results.onnx", inputs, None, {}, results=True)
    operators = onnx_file.histogram(onnx.load(path))
    assert (operators["NonMaxSuppression"], operators["TopK"], operators["Loop"]) == (1, 5, 0)
    session = onnx_file.session(path, threads=1)
    for batch in (1, 3):
        given = {key: value.astype(np.float32) for key, value in case.inputs(rng, batch).items()}
        found, expected = onnx_file.run(session, given), built.results(given)
        for key in ("valid", "labels"):
            np.testing.assert_array_equal(found[key], expected[key])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
