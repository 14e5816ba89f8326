"""Common parts of instance segmenters: the detector around a mask head, coordinates, boxes around masks.

Mirror notes:
- NCHW here, NHWC in TensorFlow; masks of instances are (N, D, H, W) in both.
"""

import torch
from torch import nn

from torch_impl.layers.resize import map_size

__all__ = ["LEVELS", "MaskDetector", "boxes_of_masks", "coordinates", "strided_masks"]

LEVELS = ("p2", "p3", "p4", "p5", "p6")


class MaskDetector(nn.Module):
    """Backbone, pyramid, head.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        mask_head: makes the maps of every level.

    Inputs: (N, 3, H, W) float, normalised; height and width are multiples of 32.
    Returns: the head's result, a dict of maps.
    """

    def __init__(self, backbone, neck, mask_head):
        super().__init__()
        self.backbone, self.neck, self.mask_head = backbone, neck, mask_head

    def forward(self, images):
        return self.mask_head(self.neck(self.backbone(images)))


def coordinates(maps):
    """x and y of every cell, from -1 in the first to 1 in the last.  (N, C, H, W) -> (N, 2, H, W)."""
    height, width = map_size(maps)
    options = dict(dtype=maps.dtype, device=maps.device)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, **options), torch.linspace(-1, 1, width, **options), indexing="ij"
    )
    return torch.stack([x, y]).expand(maps.shape[0], 2, height, width)


def strided_masks(masks, factor: int):
    """Downsample masks: 1 for cells at least half inside, judged by their four middle pixels.

    Args:
        masks: (N, M, H, W) 0 or 1.
        factor: even; H and W are multiples of it.

    Returns:
        (N, M, H / factor, W / factor) 0 or 1.
    """
    low, high = factor // 2 - 1, factor // 2
    rows = masks[:, :, low::factor] + masks[:, :, high::factor]
    return (rows[..., low::factor] + rows[..., high::factor] >= 2).to(masks.dtype)


def boxes_of_masks(masks, dtype):
    """The smallest boxes around masks, xyxy in pixels; 0 around nothing.  (N, D, H, W) bool -> (N, D, 4)."""
    ends = []
    for inside in (masks.any(2), masks.any(3)):
        place = torch.arange(inside.shape[-1], device=masks.device)
        some = inside.any(-1)
        first = torch.where(inside, place, inside.shape[-1]).amin(-1)
        ends.append((torch.where(some, first, 0), torch.where(inside, place + 1, 0).amax(-1)))
    (x1, x2), (y1, y2) = ends
    return torch.stack([x1, y1, x2, y2], -1).to(dtype)
