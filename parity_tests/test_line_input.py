"""Pictures of lines of text, and the texts that labels spell."""

import numpy as np
import pytest

from parity_tests.text_pictures import CHARACTERS
from weights.processing.images import PictureError
from weights.processing.ocr import decode_text, line_input


def test_line_input_keeps_the_ratio_and_pads_with_the_last_column():
    picture = np.tile(np.arange(40, dtype=np.uint8) * 5, (20, 1))
    found = line_input(picture, 64)
    assert found.shape == (1, 1, 64, 128) and found.dtype == np.float32
    assert found.min() >= -1 and found.max() <= 1
    padded = line_input(picture, 64, 160)
    np.testing.assert_array_equal(padded[..., :128], found)
    np.testing.assert_array_equal(padded[..., 128:], np.broadcast_to(found[..., -1:], (1, 1, 64, 32)))
    assert line_input(picture, 64, 90).shape == (1, 1, 64, 90)
    assert line_input(picture, 32, 100, keep_ratio=False, interpolation="bilinear").shape == (1, 1, 32, 100)
    assert line_input(picture[:, :2]).shape == (1, 1, 64, 16), "never too narrow for one step"


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 41, 5), (-1, 0, 5, 5), (3, 9, 9, 3)])
def test_line_input_refuses_boxes_outside_the_picture(box):
    with pytest.raises(PictureError, match="must lie inside the picture of 40 x 20 pixels"):
        line_input(np.zeros((20, 40), np.uint8), box=box)


def test_line_input_needs_a_width_to_stretch_to():
    with pytest.raises(ValueError, match="width must be given"):
        line_input(np.zeros((20, 40), np.uint8), keep_ratio=False)


def test_decode_text_drops_blanks_and_padding():
    assert decode_text([18, 0, 15, -1, -1], CHARACTERS) == CHARACTERS[17] + CHARACTERS[14]
