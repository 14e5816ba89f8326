"""The largest entries of a row, with a defined order among equal ones: the lower index comes first.

Mirror notes:
- ``torch.topk`` does not define the order of equal values, so PyTorch uses a stable sort, of the largest alone if
  they are few; ``tf.math.top_k`` has this order.
- The stable sort has no ONNX operator: while exporting, PyTorch emits ``TopK``, for which runtimes use the same order.
"""

import torch

from .native import exporting, onnx_node

__all__ = ["argmax", "top_k"]

FEW = 8  # to sort everything is faster than to look for what is more than this part of it


def top_k(scores, k: int):
    """Largest ``k`` entries along the last axis, in descending order; of equal entries the lower index comes first.

    Args:
        scores: (..., L) real tensor without NaN.
        k: number of entries, 0 to L.

    Returns:
        values: (..., k), differentiable.
        indices: (..., k) int64.

    Raises:
        ValueError: if ``k`` is negative or larger than L.
    """
    if not 0 <= k <= scores.shape[-1]:
        raise ValueError(f"k must be between 0 and {scores.shape[-1]} (the length of the last axis), got {k}")
    if exporting():
        shape = [*scores.shape[:-1], k]
        attributes = {"axis": -1, "largest": 1, "sorted": 1}  # mirror: no ONNX operator
        return tuple(
            onnx_node("TopK", [scores, torch.tensor([k])], attributes, [scores.dtype, torch.int64], [shape, shape])
        )
    indices = _chosen(scores.detach(), k)
    return scores.gather(-1, indices), indices


@torch.library.custom_op("diptych::chosen", mutates_args=())  # a compiled graph has no shapes that follow from numbers
def _chosen(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Indices (..., k) of the largest."""
    length = scores.shape[-1]
    if k * FEW > length or k == 0:  # mirror: order of equal values
        return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k].contiguous()
    least = torch.topk(scores, k).values[..., -1:]
    chosen = scores >= least
    if (chosen.sum(-1) > k).any():  # of those that equal the least, the first ones
        above, equal = scores > least, scores == least
        chosen = above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
    indices = chosen.nonzero()[:, -1].reshape(*scores.shape[:-1], k)  # in ascending order
    order = torch.sort(scores.gather(-1, indices), dim=-1, descending=True, stable=True).indices
    return indices.gather(-1, order)


@_chosen.register_fake
def _(scores, k):
    return scores.new_empty((*scores.shape[:-1], k), dtype=torch.int64)


def argmax(x, axis: int = -1):
    """Index (int64) of the largest entry along ``axis``; of equal entries the lowest index."""
    return torch.argmax(x, dim=axis)
