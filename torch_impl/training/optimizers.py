"""Optimisers whose formulas differ between the frameworks.

Mirror notes:
- Keras adds Adam's epsilon before the bias correction of the second moment, PyTorch after it.
"""

from torch.optim import Adam  # mirror: epsilon before

__all__ = ["Adam"]
