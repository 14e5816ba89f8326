"""Masks of objects inside boxes: the targets of a network, and pasting into the image.

"Mask R-CNN", 2017, arXiv:1703.06870.

Mirror notes:
- NCHW here, NHWC in TensorFlow, for RoIAlign.
"""

import torch

from torch_impl.layers.roi_align import roi_align

__all__ = ["mask_targets", "paste_masks"]


def mask_targets(boxes, matched, masks, size: int, binary: bool):
    """Crop its object's mask to every box.

    Args:
        boxes: (N, R, 4) xyxy in pixels.
        matched: (N, R) int64, index of the object; the result for a negative one is arbitrary.
        masks: (N, M, H, W), 0 or 1.
        size: height and width of the result.
        binary: clip the boxes to the image and round the averages to 0 or 1 (mmdet); otherwise neither (torchvision).

    Returns:
        (N, R, size, size) in [0, 1].

    Source: torchvision ``detection/roi_heads.project_masks_on_boxes``; mmdet ``BitmapMasks.crop_and_resize``.
    """
    n, count, height, width = masks.shape
    rows = boxes.detach()
    if binary:
        limit = torch.tensor([width, height, width, height], dtype=rows.dtype, device=rows.device)
        rows = torch.minimum(torch.clamp(rows, min=0.0), limit)
    image = torch.arange(n, device=boxes.device)[:, None] * count + torch.clamp(matched, min=0)
    features = masks.reshape(-1, 1, height, width).to(rows.dtype)  # mirror: NCHW
    found = roi_align(features, rows.reshape(-1, 4), image.reshape(-1), size, 1.0, 0, binary)
    found = found.reshape(-1, boxes.shape[1], size, size)
    return (found >= 0.5).to(rows.dtype) if binary else found


def paste_masks(masks, boxes, size: tuple[int, int], convention: str):
    """Paste masks of boxes into images.

    Args:
        masks: (N, D, S, S) probabilities.
        boxes: (N, D, 4) xyxy in pixels of the image.
        size: height and width of the image.
        convention: "mmdet" samples at the middle of every pixel; "torchvision" enlarges the boxes slightly and moves
            them to whole pixels.

    Returns:
        (N, D, H, W) probabilities, 0 outside the boxes.

    Raises:
        ValueError: if ``convention`` is unknown.

    Source: torchvision ``detection/roi_heads.paste_masks_in_image``; mmdet ``fcn_mask_head._do_paste_mask``.
    """
    if convention not in ("torchvision", "mmdet"):
        raise ValueError(f"convention={convention!r} must be 'torchvision' or 'mmdet'")
    weights = _sampling_weights if convention == "mmdet" else _resizing_weights
    x1, y1, x2, y2 = boxes.unbind(-1)
    rows = weights(y1, y2, size[0], masks.shape[2])  # (N, D, H, S)
    columns = weights(x1, x2, size[1], masks.shape[3])
    return rows @ masks @ columns.transpose(2, 3)


def _sampling_weights(start, end, length, cells):
    """Weight of every cell in a pixel, by the distance of their centres.  (N, D) -> (N, D, length, cells)."""
    extent = end - start
    pixel = torch.arange(length, device=start.device).to(start) + 0.5
    place = (pixel - start[..., None]) / torch.where(extent > 0, extent, 1.0)[..., None] * cells - 0.5
    cell = torch.arange(cells, device=start.device).to(start)
    shares = torch.clamp(1.0 - (place[..., None] - cell).abs(), min=0.0)
    return torch.where(extent[..., None, None] > 0, shares, 0.0)


def _truncated(x):
    return x.to(torch.int64).to(x.dtype)


def _resizing_weights(start, end, length, cells):
    """The same for a mask with an empty border of one cell, resized to a box of whole pixels."""
    middle, half = (start + end) / 2, (end - start) / 2 * ((cells + 2) / cells)
    first = _truncated(middle - half)[..., None]
    extent = torch.clamp(_truncated(middle + half)[..., None] - first + 1, min=1.0)
    pixel = torch.arange(length, device=start.device).to(start) - first
    place = torch.clamp((pixel + 0.5) * (cells + 2) / extent - 0.5, min=0.0, max=cells + 1.0)
    cell = torch.arange(cells, device=start.device).to(start) + 1
    shares = torch.clamp(1.0 - (place[..., None] - cell).abs(), min=0.0)
    return torch.where(((pixel >= 0) & (pixel < extent))[..., None], shares, 0.0)
