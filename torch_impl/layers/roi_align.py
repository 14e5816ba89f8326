"""RoIAlign: bins of a box filled with averaged bilinear samples; one ``RoiAlign`` node in ONNX.

Bilinear interpolation is separable: every bin is a weighted sum over a small grid of pixels, whose row and column
weights are computed independently.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
- The weighted sum of rows of a table is ``F.embedding_bag`` in PyTorch, a gather and a product in TensorFlow.
- PyTorch takes all boxes at once; gathered, their samples would leave TensorFlow's cache, those of large boxes fill its
  memory.
"""

import torch
import torch.nn.functional as F

from .native import exporting, onnx_node

__all__ = ["pyramid_roi_align", "roi_align"]


def roi_align(
    features,
    boxes_xyxy,
    batch_index,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
):
    """Features inside boxes, resampled to a fixed size.

    Args:
        features: (N, C, H, W); all but N are static.
        boxes_xyxy: (R, 4), in units of pixels / ``spatial_scale``. They get a gradient, unlike in torchvision; detach
            them where the reference has none.
        batch_index: (R,) integer, the image a box belongs to.
        output_size: bins per box, one number or (height, width).
        spatial_scale: factor from box coordinates to feature pixels.
        sampling_ratio: samples per bin and direction; 0 for one per pixel of the bin, rounded up; the largest box then
            decides how much memory is needed.
        aligned: take pixel centres at half coordinates. Otherwise the features are off by half a pixel, and boxes are
            at least one pixel wide and high, as in the first publications.

    Returns:
        (R, C, height, width).

    Source:
        torchvision.ops.roi_align.
    """
    if exporting():
        rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
        attributes = {
            "output_height": rows,
            "output_width": columns,
            "spatial_scale": float(spatial_scale),
            "sampling_ratio": sampling_ratio,
            "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        }
        inputs = [features, boxes_xyxy, batch_index.to(torch.int64)]  # mirror: NCHW
        shape = [boxes_xyxy.shape[0], features.shape[1], rows, columns]
        return onnx_node("RoiAlign", inputs, attributes, features.dtype, shape)

    level = torch.zeros_like(batch_index, dtype=torch.int64)
    return pyramid_roi_align(
        [features], [spatial_scale], level, boxes_xyxy, batch_index, output_size, sampling_ratio, aligned
    )


def pyramid_roi_align(
    maps,
    scales,
    level,
    boxes_xyxy,
    batch_index,
    output_size: int | tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = False,
):
    """Features inside boxes that belong to different maps; a ``RoiAlign`` node for each map in ONNX.

    Args:
        maps: list of (N, C, H, W), of different H and W.
        scales: factor from box coordinates to pixels of each map.
        level: (R,) int64, the map a box belongs to.
        boxes_xyxy, batch_index, output_size, sampling_ratio, aligned: see :func:`roi_align`.

    Returns:
        (R, C, height, width).
    """
    if exporting():
        found = 0
        for i, (features, scale) in enumerate(zip(maps, scales)):
            own = level == i
            rows = torch.where(own[:, None], boxes_xyxy, 0.0)  # the boxes of other levels would need many samples
            bins = roi_align(features, rows, batch_index, output_size, scale, sampling_ratio, aligned)
            found = found + torch.where(own[:, None, None, None], bins, 0.0)
        return found

    tables = [features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]) for features in maps]  # (N H W, C)
    table = torch.cat(tables)
    first = torch.tensor([0] + [len(x) for x in tables[:-1]], device=level.device).cumsum(0)
    height, width = (
        torch.tensor([features.shape[axis] for features in maps], device=level.device)[level] for axis in (2, 3)
    )
    boxes = boxes_xyxy * torch.tensor(scales).to(boxes_xyxy)[level][:, None]
    line = first[level] + batch_index.to(torch.int64) * height * width
    # mirror: boxes at once
    return _bins(table, boxes, line, height, width, output_size, sampling_ratio, aligned).permute(0, 3, 1, 2)


def _bins(table, boxes, first, height, width, output_size, sampling_ratio, aligned):
    """Bins (R, rows, columns, C) of boxes (R, 4) in pixels of maps that begin at the rows ``first`` of the table."""
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    height, width = height[:, None, None], width[:, None, None]
    x1, y1, x2, y2 = (boxes - (0.5 if aligned else 0.0)).unbind(-1)  # (R,)
    y, y_weight = _axis_samples(y1, y2, rows, height, sampling_ratio, aligned)  # (R, rows, 2 S)
    x, x_weight = _axis_samples(x1, x2, columns, width, sampling_ratio, aligned)  # (R, columns, 2 T)
    line = first[:, None, None] + y * width
    pixel = line[:, :, None, :, None] + x[:, None, :, None, :]  # (R, rows, columns, 2 S, 2 T)
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return _weighted_rows(table, pixel.flatten(3), weight.flatten(3))


def _axis_samples(start, end, bins, size, sampling_ratio, aligned):
    """Pixels and weights of one direction, two per sample.  start, end: (R,), size: (R, 1, 1) -> (R, bins, 2 S)."""
    extent = end - start
    if not aligned:
        extent = torch.where(extent > 1.0, extent, 1.0)
    step = (extent / bins)[:, None, None]  # (R, 1, 1)
    samples = torch.ceil(step.detach()) if sampling_ratio == 0 else torch.full_like(step, sampling_ratio)
    samples = torch.clamp(samples, min=1.0)  # a box without extent has one sample, of weight 0
    most = sampling_ratio or int(samples.max().item() if len(samples) else 1)
    i = torch.arange(most).to(start)
    bin_index = torch.arange(bins).to(start)[:, None]
    position = start[:, None, None] + bin_index * step + (i + 0.5) * step / samples  # (R, bins, S)

    counted = (i < samples) & (position >= -1.0) & (position <= size)
    if sampling_ratio == 0:
        counted = counted & (step > 0)
    position = torch.where(position > 0, position, 0.0)
    last = (size - 1).to(start)
    low = torch.minimum(torch.floor(position.detach()), last)
    fraction = torch.where(low < last, position - low, 0.0)
    share = counted.to(start.dtype) / samples
    low = low.to(torch.int64)
    pixel = torch.cat([low, torch.minimum(low + 1, size - 1)], dim=-1)
    return pixel, torch.cat([(1.0 - fraction) * share, fraction * share], dim=-1)


def _weighted_rows(table, index, weight):
    """Sum of table rows.  table: (P, C), index, weight: (..., J) -> (..., C)."""
    shape = index.shape
    index, weight = index.reshape(-1, shape[-1]), weight.reshape(-1, shape[-1])
    # mirror: rows of a table
    return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum").reshape(*shape[:-1], table.shape[-1])
