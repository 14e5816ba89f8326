"""Features of boxes, each from the level of a pyramid that suits its size.

"Feature Pyramid Networks for Object Detection", 2016, arXiv:1612.03144, section 4.2.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import torch
from torch import nn

from torch_impl.boxes.convention import convention_of
from torch_impl.boxes.iou import box_area
from torch_impl.layers.roi_align import pyramid_roi_align

__all__ = ["RoIExtractor", "box_levels", "image_index"]


def box_levels(boxes_xyxy, bounds: tuple[float, ...]):
    """Index of the level that a box belongs to, 0 for the finest.

    Args:
        boxes_xyxy: (R, 4) in pixels.
        bounds: ascending; a box whose area has a square root of at least this is one level coarser.

    Returns:
        (R,) int64.
    """
    size = torch.sqrt(torch.clamp(box_area(boxes_xyxy), min=0.0))
    return (size[:, None] >= torch.tensor(bounds, dtype=size.dtype, device=size.device)).to(torch.int64).sum(1)


def image_index(boxes):
    """The image that every row of (N, R, 4) boxes belongs to.  -> (N * R,) int64."""
    images = torch.arange(boxes.shape[0], device=boxes.device)
    return images[:, None].expand(-1, boxes.shape[1]).reshape(-1)


class RoIExtractor(nn.Module):
    """RoIAlign on the level of every box.

    Args:
        convention: "torchvision" or "mmdet".
        output_size: bins of a box in each direction, B.
        levels: names of the maps, fine to coarse.

    Inputs: dict of maps (N, C, H, W), of stride 4 for "p2" and so on; boxes (N, R, 4) xyxy in pixels.
    Returns: (N * R, C, B, B).
    """

    def __init__(self, convention: str, output_size: int, levels: tuple[str, ...] = ("p2", "p3", "p4", "p5")):
        super().__init__()
        self.convention, self.output_size, self.levels = convention_of(convention), output_size, tuple(levels)

    def forward(self, maps, boxes):
        image, rows = image_index(boxes), boxes.detach().reshape(-1, 4)
        level = box_levels(rows, self.convention.level_bounds[: len(self.levels) - 1])
        return pyramid_roi_align(
            [maps[name].to(rows.dtype) for name in self.levels],  # mirror: NCHW
            [1 / 2 ** int(name[1:]) for name in self.levels],
            level,
            rows,
            image,
            self.output_size,
            self.convention.sampling_ratio,
            self.convention.aligned,
        )
