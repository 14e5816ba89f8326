"""A learnt factor of a map.

Mirror notes:
- A parameter without axes in both panels; Keras makes it with an initializer.
"""

import torch
from torch import nn

__all__ = ["Scale"]


class Scale(nn.Module):
    """x times a learnt number, of any shape.

    Args:
        initial: the number before training.
    """

    def __init__(self, initial: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(initial))  # mirror: without axes

    def forward(self, x):
        return x * self.scale
