"""Position-sensitive RoI pooling: every bin of a box reads its own channels.

"R-FCN: Object Detection via Region-based Fully Convolutional Networks", 2016, arXiv:1605.06409. Reference:
msracver/FCIS ``fcis/operator_cxx/psroi_pooling.cu`` (MIT). A bin's sum is a difference of four sums from the corner.

Mirror notes:
- NHWC in TensorFlow, NCHW in PyTorch; a bin's rows are gathered from tables with the channels last in both.
"""

import torch
import torch.nn.functional as F

__all__ = ["ps_roi_pool"]

PART = 10  # of a pixel; in these units all edges of bins are integers


def _edges(first, last, bins: int, size: int, stride: int):
    """First cell of every bin of every box, and the exclusive upper bound.

    Args:
        first, last: (N, R) first and last pixel of the boxes, whole numbers.

    Returns:
        (N, R, bins) int64 twice, in [0, size].
    """
    length = torch.clamp(PART * (last - first + 1), min=stride)  # at least a tenth of a cell
    edges = length[..., None] * torch.arange(bins + 1, device=first.device) + (PART * bins * first)[..., None]
    cell = PART * bins * stride
    edges = torch.clamp(edges, min=0)
    start = torch.div(edges[..., :-1], cell, rounding_mode="floor")
    end = torch.div(edges[..., 1:] + cell - 1, cell, rounding_mode="floor")
    return torch.clamp(start, max=size), torch.clamp(end, max=size)


def ps_roi_pool(x, boxes_xyxy, group_size: int, pooled_size: int, stride: int):
    """Means over the cells of the bins of boxes; bins without a cell are 0.

    Args:
        x: (N, C G G, H, W), for each channel, G x G parts of a box.
        boxes_xyxy: (N, R, 4) in pixels, the right and lower border excluded; rounded to whole pixels.
        group_size: parts of a box in each direction, G.
        pooled_size: bins of a box in each direction, P, a multiple of G.
        stride: pixels from cell to cell.

    Returns:
        (N, R, C, P, P), with a gradient for ``x``.
    """
    batch, channels, height, width = x.shape
    channels, boxes = channels // (group_size * group_size), boxes_xyxy.detach()
    first, last = boxes[..., :2], boxes[..., 2:] - 1
    first, last = ((b.sign() * torch.floor(b.abs() + 0.5)).to(torch.int64) for b in (first, last))  # halves away from 0
    left, right = _edges(first[..., 0], last[..., 0], pooled_size, width, stride)
    top, bottom = _edges(first[..., 1], last[..., 1], pooled_size, height, stride)

    sums = F.pad(x.to(torch.float64).cumsum(2).cumsum(3), (1, 0, 1, 0))  # differences of large numbers
    table = sums.reshape(batch, channels, -1, height + 1, width + 1).permute(0, 3, 4, 2, 1).reshape(-1, channels)
    part = torch.arange(pooled_size, device=x.device) * group_size // pooled_size
    part = part[:, None] * group_size + part
    image = torch.arange(batch, device=x.device)[:, None, None, None]

    def corner(row, column):  # (N, R, P), (N, R, P) -> (N, R, P, P, C)
        place = (image * (height + 1) + row[..., :, None]) * (width + 1) + column[..., None, :]
        return table[place * (group_size * group_size) + part]

    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    count = torch.clamp(bottom - top, min=0)[..., :, None] * torch.clamp(right - left, min=0)[..., None, :]
    count = count[..., None]
    mean = torch.where(count > 0, total / torch.clamp(count, min=1).to(total.dtype), 0.0)
    return mean.to(x.dtype).permute(0, 1, 4, 2, 3)
