"""Greedy non-maximum suppression with results of fixed size; one ``NonMaxSuppression`` node in ONNX.

The greedy rule goes through the boxes in descending order of score and keeps a box unless one that was kept overlaps
it. Without a loop over boxes: keep = eligible and not any(overlaps and keep), where ``overlaps[i, j]`` says that the
better box i overlaps j; the greedy choice is the only fixed point, and iteration settles from the best box downwards.
Blocks of the best boxes are settled one after the other, without those that a box kept before overlaps, until enough
are kept.

Mirror notes:
- Blocks and the fixed point are Python loops in PyTorch, in an operator of its own; ``tf.while_loop`` in TensorFlow, of
  constant shapes for XLA, so that a block is compared with places for all K results, not with those kept alone.
- The number of rows of the ONNX node depends on the data: PyTorch needs a symbolic integer for it, TensorFlow ``None``.
"""

import torch

from .native import exporting, onnx_node
from .top_k import top_k

__all__ = ["batched_nms", "nms"]

BLOCK = 128  # boxes that are settled together
LOWEST = -1e30  # stands for minus infinity in masked scores; infinities do not survive a masked select in ONNX


def nms(boxes_xyxy, scores, iou_threshold: float, max_outputs: int, score_threshold: float | None = None):
    """Class-agnostic suppression in every image: of two boxes with IoU > ``iou_threshold`` the one with the higher
    score stays.

    Args:
        boxes_xyxy: (N, B, 4) with x1 <= x2 and y1 <= y2, any unit. IoU has no epsilon; a box without area overlaps
            nothing.
        scores: (N, B). Of equal scores the lower index is better.
        iou_threshold: boxes overlap if their IoU is strictly larger.
        max_outputs: number of results per image, K.
        score_threshold: only scores strictly larger take part; ``None`` for all.

    Returns:
        indices: (N, K) int64, kept boxes in descending order of score, padded with 0, so that it can be used to gather.
        valid: (N, K) bool, which indices are kept boxes.

    Source:
        torchvision.ops.nms.
    """
    boxes_xyxy, scores = boxes_xyxy.detach(), scores.detach()
    suppress = _onnx_nms if exporting() else _greedy_nms
    return suppress(boxes_xyxy, scores, iou_threshold, max_outputs, score_threshold)


def batched_nms(boxes, scores, labels, valid, iou_threshold: float, max_outputs: int):
    """Suppression within each class: boxes of different labels are moved apart, then all are passed to :func:`nms`.

    Args:
        boxes: (N, B, 4) xyxy.
        scores: (N, B), larger than -1e30.
        labels: (N, B) integer classes or levels; only boxes of the same label suppress each other.
        valid: (N, B) bool, which boxes take part.
        iou_threshold: boxes overlap if their IoU is strictly larger.
        max_outputs: number of results per image, K.

    Returns:
        indices, valid: both (N, K), as :func:`nms` returns them.

    Source:
        torchvision.ops.batched_nms (coordinate offsets). Here the offset includes negative coordinates; otherwise a box
        left of the origin would overlap the previous class.
    """
    boxes = torch.where(valid[..., None], boxes.detach(), 0.0)
    lowest, highest = boxes.amin(dim=(1, 2)).clamp(max=0.0), boxes.amax(dim=(1, 2))  # (N,)
    offset = labels.to(boxes.dtype) * (highest - lowest + 1.0)[:, None]  # (N, B)
    scores = torch.where(valid, scores.detach(), LOWEST)
    return nms(boxes + offset[..., None], scores, iou_threshold, max_outputs, LOWEST)


def _greedy_nms(boxes_xyxy, scores, iou_threshold, max_outputs, score_threshold):
    count = scores.shape[1]
    found = min(count, max_outputs)
    scores, order = top_k(scores, count)  # (N, B)
    boxes = boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4))
    eligible = torch.ones_like(scores, dtype=torch.bool) if score_threshold is None else scores > score_threshold
    keep = _kept(boxes, eligible, iou_threshold, found)
    kept, position = top_k(keep.to(torch.int32), found)  # kept boxes first, in order
    valid = kept > 0
    indices = torch.where(valid, order.gather(1, position), 0)
    padding = (0, max_outputs - found)
    return torch.nn.functional.pad(indices, padding), torch.nn.functional.pad(valid, padding)


@torch.library.custom_op("diptych::kept", mutates_args=())  # a compiled graph has no loop that ends by its numbers
def _kept(boxes: torch.Tensor, eligible: torch.Tensor, iou_threshold: float, max_outputs: int) -> torch.Tensor:
    """Which boxes (N, B, 4), best first, stay: (N, B) bool. After ``max_outputs`` of an image none is looked for."""
    keep = torch.zeros_like(eligible)
    boxes = boxes.mT.contiguous()  # a coordinate's values lie together, which is three times as fast
    found, count = boxes.new_zeros(len(boxes), 4, max_outputs + 1), keep.sum(1)  # the last place takes what is not kept
    for start in range(0, boxes.shape[2], BLOCK):  # mirror: blocks
        if (count >= max_outputs).all():
            break
        rows = slice(start, start + BLOCK)
        block = boxes[:, :, rows]
        lost = _overlap(found[:, :, : min(count.max(), max_outputs)], block, iou_threshold).any(1)
        kept = _settle(_overlap(block, block, iou_threshold).triu(1), eligible[:, rows] & ~lost)
        place = torch.where(kept, count[:, None] + kept.cumsum(1) - 1, max_outputs).clamp(max=max_outputs)
        found.scatter_(2, place[:, None].expand(-1, 4, -1), block)
        keep[:, rows] = kept
        count += kept.sum(1)
    return keep


@_kept.register_fake
def _(boxes, eligible, iou_threshold, max_outputs):
    return torch.empty_like(eligible)


def _overlap(a, b, iou_threshold):
    """Whether boxes (N, 4, A) and (N, 4, B) overlap: (N, A, B) bool."""
    x1, y1, x2, y2 = a[..., None].unbind(1)
    left, top, right, bottom = b[:, :, None].unbind(1)
    width = torch.minimum(x2, right) - torch.maximum(x1, left)
    height = torch.minimum(y2, bottom) - torch.maximum(y1, top)
    shared = torch.clamp(width, min=0.0) * torch.clamp(height, min=0.0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared
    # A box without area overlaps nothing, where the quotient would be 0/0.
    return (shared > 0) & (shared / torch.where(shared > 0, union, 1.0) > iou_threshold)


def _settle(overlaps, eligible):
    """Which boxes are kept, from ``overlaps`` (N, B, B) of better ones i with j, and which take part (N, B)."""
    keep, before = eligible, None
    while before is None or not torch.equal(keep, before):  # mirror: fixed point
        keep, before = eligible & ~(overlaps & keep[..., None]).any(1), keep
    return keep


def _onnx_nms(boxes_xyxy, scores, iou_threshold, max_outputs, score_threshold):
    batch = scores.shape[0]
    # A stand-in for the number of selected boxes: the tracer needs an integer that depends on the data. It only occurs
    # in shapes, so its computation leaves nothing in the graph.
    selected_count = (scores > 0).sum().item()
    torch._check(selected_count >= 0)
    torch._check(selected_count <= batch * max_outputs)
    inputs = [boxes_xyxy.to(torch.float32), scores.to(torch.float32)[:, None]]
    inputs += [torch.tensor([max_outputs]), torch.tensor([iou_threshold])]
    inputs += [] if score_threshold is None else [torch.tensor([score_threshold])]
    # mirror: number of rows
    selected = onnx_node("NonMaxSuppression", inputs, {}, torch.int64, [selected_count, 3])  # (image, class, box)

    image, box = selected[:, 0], selected[:, 2]  # (S,), ordered by image, then by descending score
    count = (image[None, :] == torch.arange(batch)[:, None]).sum(dim=1)  # (N,)
    first = torch.cumsum(count, dim=0) - count
    row = torch.cumsum((image >= 0).to(torch.int64), dim=0) - 1  # 0, 1, 2, ... without using the stand-in integer
    slot = row - first[image]
    indices = torch.zeros(batch * max_outputs, dtype=torch.int64).scatter(0, image * max_outputs + slot, box)
    valid = torch.arange(max_outputs)[None, :] < count[:, None]
    return indices.reshape(-1, max_outputs), valid
