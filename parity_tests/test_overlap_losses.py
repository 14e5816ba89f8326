"""Losses of overlap: the Lovász extension from the definition of its set function, Dice, and third-party numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from tf_impl.losses import overlap as tf_overlap
from torch_impl.losses import overlap as torch_overlap

CLASSES = 4


def example(seed: int = 0, size: tuple[int, int] = (3, 5)):
    """Logits (N, K, H, W) and labels of two images: the last class is absent, a corner is ignored."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((2, CLASSES, *size))
    labels = rng.integers(0, CLASSES - 1, (2, *size))
    labels[:, 0, 3:] = 255
    return logits, labels


def both(name: str, logits, labels, **options) -> tuple[float, np.ndarray]:
    """The loss and its gradient, which must be the same in both panels."""
    x = torch.tensor(logits, requires_grad=True)
    loss = getattr(torch_overlap, name)(x, torch.from_numpy(labels), **options)
    loss.backward()
    value = tf.constant(logits.transpose(0, 2, 3, 1))
    with tf.GradientTape() as tape:
        tape.watch(value)
        twin = getattr(tf_overlap, name)(value, tf.constant(labels), **options)
    gradient = x.grad.numpy()
    np.testing.assert_allclose(float(twin), float(loss.detach()), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(tape.gradient(twin, value).numpy().transpose(0, 3, 1, 2), gradient, atol=1e-14)
    return float(loss.detach()), gradient


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def missed_share(missed: set, there: set) -> float:
    """The Jaccard loss of a class if exactly these pixels are wrong (equation 6 of the paper)."""
    return len(missed) / len(there | missed) if missed else 0.0


def extension(errors: np.ndarray, there: set) -> float:
    """Of a set function to errors between 0 and 1: the sum of errors times what each pixel adds (definition 1)."""
    total, missed = 0.0, set()
    for pixel in sorted(range(len(errors)), key=lambda i: -errors[i]):
        total += errors[pixel] * (missed_share(missed | {pixel}, there) - missed_share(missed, there))
        missed |= {pixel}
    return total


def defined(logits, labels, classes: str, per_image: bool) -> float:
    p = softmax(logits).transpose(0, 2, 3, 1).reshape(2, -1, CLASSES)
    images = list(zip(p, labels.reshape(2, -1))) if per_image else [(p.reshape(-1, CLASSES), labels.ravel())]
    losses = []
    for probabilities, own in images:
        probabilities, own = probabilities[own != 255], own[own != 255]
        wanted = [k for k in range(CLASSES) if classes == "all" or (own == k).any()]
        errors = [np.abs((own == k) - probabilities[:, k]) for k in wanted]
        found = [extension(e, set(np.flatnonzero(own == k))) for e, k in zip(errors, wanted)]
        losses.append(np.mean(found))
    return np.mean(losses)


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_is_the_extension_of_the_jaccard_loss(classes, per_image):
    for seed in range(3):
        logits, labels = example(seed)
        loss, _ = both("lovasz_softmax", logits, labels, classes=classes, per_image=per_image)
        assert loss == pytest.approx(defined(logits, labels, classes, per_image), rel=1e-12)


def test_sure_answers_lose_what_the_jaccard_index_lacks():
    logits, labels = example()
    found = logits.argmax(1)
    loss, _ = both("lovasz_softmax", 1e3 * np.eye(CLASSES)[found].transpose(0, 3, 1, 2), labels)
    valid = labels != 255
    shares = [
        (valid & (found == k) & (labels == k)).sum() / (valid & ((found == k) | (labels == k))).sum()
        for k in np.unique(labels[valid])
    ]
    assert 0 < np.mean(shares) < 1 and loss == pytest.approx(1 - np.mean(shares), rel=1e-12)


def test_the_gradient_is_that_of_the_definition():
    logits, labels = example()
    _, gradient = both("lovasz_softmax", logits, labels)
    for place in [(0, 0, 0, 0), (0, 3, 1, 2), (1, 2, 2, 4), (1, 1, 0, 0)]:
        step = np.zeros_like(logits)
        step[place] = 1e-6
        ends = [defined(logits + sign * step, labels, "present", False) for sign in (1, -1)]
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    assert not gradient[:, :, 0, 3:].any(), "ignored pixels move nothing"


def test_equal_errors_are_taken_in_the_same_order():
    _, labels = example()
    for logits in (np.zeros((2, CLASSES, 3, 5)), np.round(example()[0])):
        loss, gradient = both("lovasz_softmax", logits, labels)
        assert loss == pytest.approx(defined(logits, labels, "present", False), rel=1e-12) and gradient.any()


def test_nothing_but_ignored_pixels_loses_nothing():
    logits, labels = example()
    for options in ({}, {"per_image": True}, {"classes": "all"}):
        loss, gradient = both("lovasz_softmax", logits, np.full_like(labels, 255), **options)
        assert loss == 0 and not gradient.any()
    labels[1] = 255  # half of the mean of the images
    whole, part = (both("lovasz_softmax", logits, labels, per_image=flag)[0] for flag in (False, True))
    assert part == pytest.approx(whole / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # of the example in float32: segmentation_models_pytorch 0.6.0 LovaszLoss("multiclass", ignore_index=255) and
        # mmsegmentation 1.2.2 LovaszLoss(reduction="none"), the same number
        ("lovasz_softmax", {}, 0.7412216067314148),
        ("lovasz_softmax", {"per_image": True}, 0.7164241075515747),
        # mmsegmentation 1.2.2 DiceLoss()
        ("class_dice", {}, 0.5567474365234375),
    ],
)
def test_numbers_of_third_parties(name, options, expected):
    assert both(name, *example(), **options)[0] == pytest.approx(expected, rel=1e-6)


def test_terms_of_the_criterion():
    logits, labels = example()
    options = {"dice_weight": 3.0, "lovasz_weight": 0.5, "per_image": True}
    given = {"logits": torch.from_numpy(logits)}, {"labels": torch.from_numpy(labels)}
    losses = {name: float(x) for name, x in torch_overlap.OverlapCriterion(**options)(*given).items()}
    assert losses["decode.loss_dice"] == pytest.approx(3 * both("class_dice", logits, labels)[0])
    expected = both("lovasz_softmax", logits, labels, per_image=True)[0] / 2
    assert losses["decode.loss_lovasz"] == pytest.approx(expected)
    assert set(losses) == {"decode.loss_ce", "decode.loss_dice", "decode.loss_lovasz", "total"}
    assert losses.pop("total") == pytest.approx(sum(losses.values()))
    assert set(torch_overlap.OverlapCriterion(dice_weight=0.0)(*given)) == {"decode.loss_ce", "total"}


@pytest.mark.parametrize("module", [tf_overlap, torch_overlap])
def test_other_choices_of_classes_are_refused(module):
    convert = torch.from_numpy if module is torch_overlap else keras.ops.convert_to_tensor
    with pytest.raises(ValueError, match="classes='some' must be 'present' or 'all'"):
        module.lovasz_softmax(*map(convert, example()), classes="some")
