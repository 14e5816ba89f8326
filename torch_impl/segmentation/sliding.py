"""Sliding windows: a segmenter looks at overlapping parts of a large image, and its scores are averaged.

As mmsegmentation tests networks that it trains on small crops (``EncoderDecoder.slide_inference``, Apache-2.0), such as
the U-Net of retinal vessels here: the overlapping tiles of arXiv:1505.04597, figure 2, without their mirrored border.
What to look at: the last window of a row ends at the border, so that all windows are of one size and form a batch.

Mirror notes:
- NCHW here, NHWC in TensorFlow. Scores are added with channels first all the same: ONNX Runtime 1.32 fails on a resize
  between two transpositions, as losses of the mean would have it.
- PyTorch's module knows whether it is in training, Keras is told.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.overlap import OverlapCriterion
from torch_impl.losses.segmentation import SegmentationPostProcess
from torch_impl.segmentation.unet import unet_s5_d16

__all__ = ["OverlapCriterion", "SegmentationPostProcess", "SlidingWindows", "unet_s5_d16_hrf"]


def starts(length: int, crop: int, stride: int) -> list[int]:
    """Where the windows begin along an axis: the last one ends with the image, which may be shorter than a window."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [min(i * stride, max(length - crop, 0)) for i in range(count)]


class SlidingWindows(nn.Module):
    """The mean of the scores that a segmenter gives a pixel in all windows with it; in training the segmenter itself.

    Args:
        segmenter: makes logits (N, K, h', w') of images (N, C, h, w), or a dict with ``"logits"``.
        crop: height and width of a window, in pixels; an image that is smaller is one window.
        stride: rows and columns from a window to the next; at most those of a window.
        batch: windows that the segmenter is given at once.

    Inputs: (N, C, H, W) float; H and W are static.
    Returns: dict: ``"logits"`` (N, K, H, W); in training what the segmenter returns.
    Raises: ValueError for a stride that leaves pixels out, and for images of dynamic height and width.
    """

    def __init__(
        self,
        segmenter,
        crop: tuple[int, int] = (256, 256),
        stride: tuple[int, int] = (170, 170),
        batch: int = 16,
    ):
        super().__init__()
        if not all(0 < step <= side for step, side in zip(stride, crop, strict=True)):
            raise ValueError(f"stride={stride!r} must be from 1 to the sides of a window, crop={crop!r}")
        self.segmenter, self.crop, self.stride, self.batch = segmenter, tuple(crop), tuple(stride), batch

    def scores(self, windows) -> list:
        """Logits (N, K, h, w) of each of several windows (N, C, h, w)."""
        found = self.segmenter(torch.cat(windows))
        found = found["logits"] if isinstance(found, dict) else found
        found = resize_bilinear(found, map_size(windows[0]))  # mirror: channels first
        return list(found.unflatten(0, (len(windows), -1)).unbind())

    def forward(self, images):
        if self.training:  # mirror: whether it is in training
            return self.segmenter(images)
        if not all(isinstance(length, int) for length in map_size(images)):
            raise ValueError("the number of windows depends on height and width, which must be fixed")
        sides = [min(side, length) for side, length in zip(self.crop, map_size(images))]
        rows, columns = (starts(*along) for along in zip(map_size(images), self.crop, self.stride))
        windows = [images[:, :, y : y + sides[0], x : x + sides[1]] for y in rows for x in columns]
        scores = []
        for i in range(0, len(windows), self.batch):
            scores += self.scores(windows[i : i + self.batch])
        total, (height, width) = 0.0, map_size(images)
        for i, y in enumerate(rows):
            line = 0.0
            for score, x in zip(scores[i * len(columns) :], columns):
                line = line + F.pad(score, (x, width - x - sides[1]))
            total = total + F.pad(line, (0, 0, y, height - y - sides[0]))
        mean = total / visits((height, width), (rows, columns), sides, total)
        return {"logits": mean}  # mirror: channels first


def visits(size, places, sides, like):
    """How many windows see each pixel.  -> (H, W), of the type and on the device of ``like``."""
    along = [np.zeros(length) for length in size]
    for counts, first, side in zip(along, places, sides, strict=True):
        for start in first:
            counts[start : start + side] += 1
    return torch.from_numpy(np.outer(*along)).to(like)


def unet_s5_d16_hrf(
    base_channels: int = 64,
    num_classes: int = 2,
    channels: int = 64,
    dropout: float = 0.1,
    crop: tuple[int, int] = (256, 256),
    stride: tuple[int, int] = (170, 170),
    batch: int = 16,
) -> SlidingWindows:
    return SlidingWindows(unet_s5_d16(base_channels, num_classes, channels, dropout), crop, stride, batch)
