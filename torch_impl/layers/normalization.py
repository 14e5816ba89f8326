"""Normalisation layers.

Mirror notes:
- PyTorch stores the unbiased batch variance, Keras the biased one; the TensorFlow panel stores PyTorch's.
- PyTorch's momentum is the weight of the new value, Keras' that of the old one.
- ``freeze_norm`` replaces modules in PyTorch; Keras builds lazily, so its layers are told before they build.
"""

import functools

import torch
from torch import nn
from torch.nn import BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm  # mirror: unbiased batch; mirror: momentum is

__all__ = [
    "BatchNorm2d",
    "FrozenBatchNorm2d",
    "GroupNorm",
    "InstanceNorm2d",
    "LayerNorm",
    "StdLayerNorm",
    "choose_norm",
    "freeze_norm",
]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation as a fixed scale and shift: all four tensors are buffers.

    Args:
        num_features: channels C.
        eps: added to the variance inside the root.

    Inputs: (N, C, H, W).  Returns: the same shape.
    Source: torchvision ``ops/misc.py``.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class StdLayerNorm(nn.Module):
    """Layer normalisation by the unbiased deviation, to which eps is added outside the root.

    Its parameters are called ``gamma`` and ``beta``.

    Args:
        normalized_shape: length D of the last axis.
        eps: added to the deviation.

    Inputs: (..., D).  Returns: the same shape.

    Source: dbiir/UER-py ``uer/layers/layer_norm.py``.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(normalized_shape))
        self.beta = nn.Parameter(torch.zeros(normalized_shape))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return self.gamma * centred / (x.std(-1, keepdim=True) + self.eps) + self.beta


def freeze_norm(model) -> None:
    """Replace every batch normalisation of a model by a fixed scale and shift.

    Args:
        model: a module, whose children are replaced; their values are kept.
    """
    for name, child in model.named_children():
        if isinstance(child, BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            state = {key: value for key, value in child.state_dict().items() if key != "num_batches_tracked"}
            frozen.load_state_dict(state)
            setattr(model, name, frozen)  # mirror: told before they build
        else:
            freeze_norm(child)


def choose_norm(norm):
    """The class of a normalisation by its name, "batch", "frozen" (fixed scale and shift) or "group" (32 groups);
    anything else is returned as it is.

    Raises:
        ValueError: if there is no such name.
    """
    known = {"batch": BatchNorm2d, "frozen": FrozenBatchNorm2d, "group": functools.partial(GroupNorm, 32)}
    if isinstance(norm, str) and norm not in known:
        raise ValueError(f"norm={norm!r} must be one of {sorted(known)}, or make a normalisation")
    return known[norm] if isinstance(norm, str) else norm
