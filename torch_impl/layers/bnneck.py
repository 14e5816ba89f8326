"""Batch normalisation of vectors whose shift stays at zero.

"Bag of Tricks and A Strong Baseline for Deep Person Re-identification", 2019, arXiv:1903.07071, section 3.6; the last
layer of SimCLR's head, too. Checkpoints contain the shift, so it exists here, but it is never trained.

Mirror notes:
- PyTorch has parameters without a gradient, Keras variables that are not trainable.
"""

from torch import nn

__all__ = ["BNNeck"]


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation without a learned shift.  (N, C) -> (N, C)."""

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.bias.requires_grad_(False)  # mirror: parameters without
