"""Greedy non-maximum suppression with results of fixed size; one ``NonMaxSuppression`` node in ONNX.

The greedy rule goes through the boxes in descending order of score and keeps a box unless one that was kept overlaps
it. Without a loop over boxes: keep = eligible and not any(overlaps and keep), where ``overlaps[i, j]`` says that the
better box i overlaps j; the greedy choice is the only fixed point, and iteration settles from the best box downwards.
Blocks of the best boxes are settled one after the other, each suppresses the boxes after it, until enough are kept.

Mirror notes:
- Blocks and the fixed point are Python loops in PyTorch, in an operator of its own; ``tf.while_loop`` in TensorFlow, of
  constant shapes for XLA, so that a block is compared with all boxes, not with the later ones alone.
- The number of rows of the ONNX node depends on the data: PyTorch needs a symbolic integer for it, TensorFlow ``None``.
"""

import torch

from .native import exporting, onnx_node
from .top_k import top_k

__all__ = ["batched_nms", "nms"]

BLOCK = 128  # boxes whose overlaps with those after them are looked at together
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
    scores, order = top_k(scores, count)  # (N, B)
    boxes = boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4))
    eligible = torch.ones_like(scores, dtype=torch.bool) if score_threshold is None else scores > score_threshold
    keep = _kept(boxes, eligible, iou_threshold, max_outputs)
    found = min(count, max_outputs)
    kept, position = top_k(keep.to(torch.int32), found)  # kept boxes first, in order
    valid = kept > 0
    indices = torch.where(valid, order.gather(1, position), 0)
    padding = (0, max_outputs - found)
    return torch.nn.functional.pad(indices, padding), torch.nn.functional.pad(valid, padding)


@torch.library.custom_op("diptych::kept", mutates_args=())  # a compiled graph has no loop that ends by its numbers
def _kept(boxes: torch.Tensor, eligible: torch.Tensor, iou_threshold: float, max_outputs: int) -> torch.Tensor:
    """Which boxes (N, B, 4), best first, stay: (N, B) bool. After ``max_outputs`` of an image none is looked for."""
    keep, left = torch.zeros_like(eligible), eligible.clone()
    for start in range(0, boxes.shape[1], BLOCK):  # mirror: blocks
        if (keep.sum(1) >= max_outputs).all():
            break
        end = start + BLOCK
        # [i, j]: i of this block overlaps j of this block or a later one
        overlaps = _overlap(boxes[:, start:end], boxes[:, start:], iou_threshold).to(boxes.dtype)
        keep[:, start:end] = _settle(overlaps[:, :, : overlaps.shape[1]].triu(1), left[:, start:end])
        left[:, start:] &= torch.matmul(keep[:, None, start:end].to(boxes.dtype), overlaps)[:, 0] == 0
    return keep


@_kept.register_fake
def _(boxes, eligible, iou_threshold, max_outputs):
    return torch.empty_like(eligible)


def _overlap(a, b, iou_threshold):
    """Whether boxes (N, A, 4) and (N, B, 4) overlap: (N, A, B) bool."""
    # a coordinate's values lie together, which is three times as fast
    x1, y1, x2, y2 = a.mT.contiguous()[..., None].unbind(1)
    left, top, right, bottom = b.mT.contiguous()[:, :, None].unbind(1)
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
        better_kept = torch.matmul(keep.to(overlaps.dtype)[:, None], overlaps)[:, 0]  # how many overlap each box
        keep, before = eligible & (better_kept == 0), keep
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
