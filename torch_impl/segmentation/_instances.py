"""What the segmenters of instances share: backbone and pyramid P2 to P6, coordinates, boxes around masks.

Mirror notes:
- NCHW here, NHWC in TensorFlow; masks of instances are (N, D, H, W) in both.
"""

import torch
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from torch_impl.layers.resize import map_size

__all__ = ["LEVELS", "MaskDetector", "boxes_of_masks", "coordinates", "pyramid_backbone", "strided_masks"]

LEVELS = ("p2", "p3", "p4", "p5", "p6")
BLOCKS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


def pyramid_backbone(
    depth: int = 50,
    layers: tuple[int, ...] | None = None,
    planes: tuple[int, ...] = (64, 128, 256, 512),
    norm_eval: bool = True,
    frozen_stages: int = 1,
) -> ResNet:
    """A residual network's maps C2 to C5; 18, 34, 50 or 101 layers deep, unless ``layers`` says otherwise.

    Raises:
        ValueError: if there is no such depth.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth} must be one of {sorted(BLOCKS)}")
    block, blocks = BLOCKS[depth]
    return ResNet(
        block,
        blocks if layers is None else layers,
        planes=planes,
        norm_eval=norm_eval,
        frozen_stages=frozen_stages,
        features_only=True,
        out_indices=(1, 2, 3, 4),
    )


class MaskDetector(nn.Module):
    """Backbone, pyramid, head.

    Args:
        backbone: returns its maps by name.
        neck: makes levels of them, by name.
        mask_head: makes the maps of every level.

    Inputs: (N, 3, H, W) float, normalised; height and width are multiples of 32.
    Returns: what the head returns: a dict of maps.
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
    """Masks at a fraction of their size: what is half inside or more, judged by the four middle pixels of a cell.

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
