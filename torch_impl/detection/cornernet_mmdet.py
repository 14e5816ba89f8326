"""CornerNet as mmdet trains it: means over the two corners, sums over the hourglasses, probabilities that are not
clipped.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244.
Source of the losses: mmdet ``dense_heads/corner_head.py``, ``losses/ae_loss.py`` (Apache-2.0). Network, names and
results are those of :class:`CornerNet`.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.heatmaps import gaussian_radius, heat_maps
from torch_impl.detection.cornernet import CORNERS, CornerNet, CornerNetPostProcess
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.losses.box import smooth_l1_loss

__all__ = ["CornerNetPostProcess", "MMDetCornerNetCriterion", "cornernet_hourglass104_mmdet"]

TINY = 1e-12  # in the logarithms
SINGLE = 1.1920928955078125e-07  # added to the divisors


class MMDetCornerNetCriterion(nn.Module):
    """Focal loss of the heat maps, pull and push of the tags, smooth L1 loss of the offsets at the objects' corners.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        pull_weight, push_weight: factors of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part; of several corners in a cell the
        last one's offset counts.
    Returns: dict of scalars: ``"det_loss"``, ``"pull_loss"``, ``"push_loss"``, ``"off_loss"``, ``"total"``; sums over
        the hourglasses.
    """

    def __init__(self, overlap: float = 0.3, pull_weight: float = 0.1, push_weight: float = 0.1):
        super().__init__()
        self.overlap, self.pull_weight, self.push_weight = overlap, pull_weight, push_weight

    def forward(self, outputs, targets):
        heat = outputs["tl_heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        grid = torch.tensor([width, height], dtype=dtype, device=heat.device)
        boxes = targets["boxes"].to(dtype) * (grid / outputs["image_size"].flip(0).to(dtype)).repeat(2)
        size = torch.ceil(boxes[..., 2:] - boxes[..., :2])
        valid = targets["valid"] & (size > 0).all(-1)
        size = torch.where(valid[..., None], size, 1.0)
        radius = torch.floor(torch.clamp(gaussian_radius(size[..., 1], size[..., 0], self.overlap), min=0.0))

        zero = torch.zeros([], dtype=dtype, device=heat.device)
        losses = dict.fromkeys(("det_loss", "pull_loss", "push_loss", "off_loss"), zero)
        stacks = [f"_{i}" for i in range(len(outputs) // 6 - 1)] + [""]
        tags = {stack: [] for stack in stacks}
        for corner, place in zip(CORNERS, (boxes[..., :2], boxes[..., 2:])):
            cell = torch.floor(torch.clamp(torch.minimum(place, grid - 1), min=0.0))  # (N, M, 2)
            index = (cell[..., 1] * width + cell[..., 0]).long()
            counted = valid & ~self.taken_later(index, valid)
            wanted = heat_maps(cell, radius, targets["labels"], valid, heat.shape[1], (height, width))  # mirror: NCHW
            for stack in stacks:
                found = [take_rows(map_rows(outputs[f"{corner}_{key}{stack}"]), index) for key in ("tag", "regr")]
                tags[stack].append(found[0][..., 0])  # (N, M)
                rests = torch.where(counted, smooth_l1_loss(found[1], place - cell), 0.0).sum()
                rests = rests / (torch.clamp(counted.to(dtype).sum(), min=1.0) + SINGLE)
                losses["off_loss"] = losses["off_loss"] + rests / 2
                peaks = self.peak_loss(torch.sigmoid(outputs[f"{corner}_heat{stack}"]), wanted)
                losses["det_loss"] = losses["det_loss"] + peaks / 2
        for first, second in tags.values():
            together, apart = self.tag_losses(first, second, valid)
            losses["pull_loss"] = losses["pull_loss"] + self.pull_weight * together
            losses["push_loss"] = losses["push_loss"] + self.push_weight * apart
        return {**losses, "total": sum(losses.values())}

    @staticmethod
    def taken_later(index, valid):
        """Which objects share their cell with a later one.  (N, M) twice -> (N, M) bool."""
        slots = torch.arange(index.shape[1], device=index.device)
        later = (slots[:, None] < slots) & valid[:, None]  # (N, M, M)
        return ((index[:, :, None] == index[:, None]) & later).any(2)

    @staticmethod
    def peak_loss(heat, wanted):
        """Focal loss of probabilities, weaker near a peak, by the number of peaks.  (N, K, H, W) twice -> scalar."""
        peak = wanted == 1
        at_peaks = torch.log(heat + TINY) * (1 - heat).square()
        elsewhere = torch.log(1 - heat + TINY) * heat.square() * (1 - wanted) ** 4
        count = torch.clamp(peak.to(heat.dtype).sum(), min=1.0) + SINGLE
        return -torch.where(peak, at_peaks, elsewhere).sum() / count

    @staticmethod
    def tag_losses(first, second, valid):
        """Distances of an object's tags from their mean, and closeness of the objects' means; sums over the batch."""
        mean = (first + second) / 2
        number = torch.clamp(valid.to(mean.dtype).sum(1), min=1.0)  # (N,)
        together = ((first - mean).square() + (second - mean).square()) / number[:, None]
        near = F.relu(1 - (mean[:, None] - mean[:, :, None]).abs())  # (N, M, M)
        near = near / torch.clamp(number * (number - 1), min=1.0)[:, None, None]
        pairs = valid[:, None] & valid[:, :, None] & ~torch.eye(mean.shape[1], dtype=torch.bool, device=mean.device)
        return torch.where(valid, together, 0.0).sum(), torch.where(pairs, near, 0.0).sum()


def cornernet_hourglass104_mmdet(stacks: int = 2, **options) -> CornerNet:
    return CornerNet(stacks, **options)
