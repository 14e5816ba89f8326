"""The distance of two images in a classifier's features.

"Perceptual Losses for Real-Time Style Transfer and Super-Resolution", 2016, arXiv:1603.08155.

Mirror notes:
- Frozen: parameters without a gradient in PyTorch, a non-trainable layer in Keras.
"""

from collections.abc import Mapping

import torch
from torch import nn

from torch_impl.classification.vgg import vgg19

__all__ = ["PerceptualDistance"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class PerceptualDistance(nn.Module):
    """Weighted sum over layers of VGG-19 of the distance between two images' activations; the network is frozen.

    Args:
        layers: weight by layer index: 1, 6, 11, 20, 29 are the first ReLU of the stages, 34 and 35 the last
            convolution before and after its ReLU.
        distance: "l1" or "l2", the mean over all values.
        normalize: normalise images in [0, 1] by ImageNet's mean and deviation.
        widths: channels of the five stages.

    Inputs: ``images`` and ``others`` (N, 3, H, W); ``others`` without a gradient.
    Returns: scalar.
    Raises: ValueError if ``distance`` is unknown.
    """

    def __init__(
        self,
        layers: Mapping[int, float],
        distance: str = "l1",
        normalize: bool = True,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
    ):
        super().__init__()
        if distance not in ("l1", "l2"):
            raise ValueError(f"distance={distance!r} must be 'l1' or 'l2'")
        self.taps, self.distance, self.normalize = tuple(dict(layers).items()), distance, normalize
        self.vgg = vgg19(widths=widths, features_only=True).requires_grad_(False)  # mirror: Frozen

    def seen(self, images) -> dict:
        """Activations by layer index."""
        if self.normalize:
            mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in (MEAN, STD))
            images = (images - mean) / std
        return self.vgg.activations(images, [layer for layer, _ in self.taps])

    def forward(self, images, others):
        total = 0.0
        mine, theirs = self.seen(images), self.seen(others.detach())
        for layer, weight in self.taps:
            difference = mine[layer] - theirs[layer]
            total = total + weight * (difference.abs() if self.distance == "l1" else difference.square()).mean()
        return total
