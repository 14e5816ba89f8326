"""YOLACT's priors, matching and suppression in both panels."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.segmentation.condinst as tf_condinst
import tf_impl.segmentation.yolact as tf_yolact
import torch_impl.segmentation.condinst as torch_condinst
import torch_impl.segmentation.yolact as torch_yolact
from tf_impl.layers.aligned_bilinear import aligned_bilinear as tf_aligned_bilinear
from torch_impl.layers.aligned_bilinear import aligned_bilinear as torch_aligned_bilinear

PANELS = {
    "tensorflow": (tf_yolact, tf_condinst, tf_aligned_bilinear, tf.constant),
    "pytorch": (torch_yolact, torch_condinst, torch_aligned_bilinear, torch.tensor),
}
panels = pytest.mark.parametrize("panel", PANELS)


@panels
def test_priors_are_those_of_the_reference(panel):
    yolact = PANELS[panel][0]
    for options, size, count in (({}, 69, 19248), (yolact.IM400, 50, 10077), (yolact.IM700, 88, 30963)):
        options = {"scales": yolact.SCALES, "max_size": 550, "square": True, **options}
        found = yolact.priors((size, size), **options)
        assert len(found) == count
    first, last = found[0], found[-1]
    np.testing.assert_allclose((first[:2] + first[2:]) / 2, 1 / 176)
    np.testing.assert_allclose(first[2:] - first[:2], 30 / 700)
    np.testing.assert_allclose((last[:2] + last[2:]) / 2, 11 / 12)
    np.testing.assert_allclose(last[2:] - last[:2], 488 * 2**0.5 / 700)


@panels
def test_priors_of_the_pascal_form_are_not_square(panel):
    yolact = PANELS[panel][0]
    found = yolact.priors((1, 1), (10,), 100, square=False)
    np.testing.assert_allclose((found[1, 3] - found[1, 1]) / (found[1, 2] - found[1, 0]), 2)


@panels
def test_a_suppressed_box_suppresses_others(panel):
    yolact, _, _, tensor = PANELS[panel]
    boxes = tensor(np.array([[[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6.4]]]))
    scores, index = yolact.fast_nms(boxes, tensor(np.array([[[0.8, 0.9, 0.7], [0.7, 0.8, 0.9]]])), 0.7, 3)
    np.testing.assert_array_equal(np.asarray(index), [[[1, 0, 2], [2, 1, 0]]])
    np.testing.assert_array_equal(np.asarray(scores), [[[0.9, -1, -1], [0.9, -1, -1]]])
    scores, _ = yolact.fast_nms(boxes, tensor(np.array([[[0.9, 0.8, 0.7]]])), 0.7, 3)
    np.testing.assert_array_equal(np.asarray(scores), [[[0.9, -1, -1]]])


@panels
def test_every_object_gets_a_prior_of_its_own(panel):
    yolact, _, _, tensor = PANELS[panel]
    iou = np.array([[[0.9, 0.8, 0.1], [0.85, 0.2, 0.0], [0.99, 0.99, 0.99]]])
    best, index = yolact.match_priors(tensor(iou), tensor(np.array([[True, True, False]])))
    np.testing.assert_array_equal(np.asarray(index), [[0, 1, 0]])
    np.testing.assert_array_equal(np.asarray(best), [[2, 2, 0.1]])


@panels
def test_masks_are_cut_with_a_border_of_one_place(panel):
    yolact, _, _, tensor = PANELS[panel]
    masks = np.asarray(yolact.cut_masks(tensor(np.ones((1, 1, 8, 10))), tensor(np.array([[[0.7, 0.25, 0.4, 0.5]]]))))
    y, x = np.nonzero(masks[0, 0])
    assert (x.min(), x.max(), y.min(), y.max()) == (3, 7, 1, 4)


@panels
def test_aligned_enlargement_keeps_every_second_pixel(panel):
    _, _, aligned_bilinear, tensor = PANELS[panel]
    found = np.asarray(aligned_bilinear(tensor(np.array([[[[1.0, 2], [3, 4]]]])), 2, axes=(2, 3)))
    np.testing.assert_array_equal(found[0, 0], [[1, 1, 1.5, 2], [1, 1, 1.5, 2], [2, 2, 2.5, 3], [3, 3, 3.5, 4]])
    found = np.asarray(aligned_bilinear(tensor(np.array([[[[0.0, 4]]]])), 4, axes=(2, 3)))
    np.testing.assert_array_equal(found[0, 0, 0], [0, 0, 0, 1, 2, 3, 4, 4])


@panels
def test_parameters_of_the_small_networks_are_weights_first(panel):
    condinst = PANELS[panel][1]
    starts = np.cumsum([0, *condinst.parameter_counts(8)])
    assert list(starts) == [0, 80, 144, 152, 160, 168, 169]


@panels
def test_middle_of_a_mask_is_that_of_its_pixels(panel):
    _, condinst, _, tensor = PANELS[panel]
    masks = np.zeros((1, 2, 6, 8))
    masks[0, 0, 1:4, 2:7] = 1
    np.testing.assert_allclose(np.asarray(condinst.mask_centres(tensor(masks))), [[[4, 2], [0, 0]]], atol=1e-12)
