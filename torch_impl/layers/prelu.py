"""A leaky ReLU whose slope is learnt.

Mirror notes:
- Keras has one slope per position unless axes are shared; PyTorch has one for all, or one per channel.
"""

from torch.nn import PReLU  # mirror: one slope per position

__all__ = ["PReLU"]
