"""RMSProp as in PyTorch.

Mirror notes:
- Keras adds epsilon inside the root of the mean square, PyTorch after it.
"""

from torch.optim import RMSprop  # mirror: inside the root

__all__ = ["RMSprop"]
