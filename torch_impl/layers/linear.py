"""Fully connected layer and embedding.

Mirror notes:
- PyTorch ships both; ``Linear`` stores its kernel (out, in), in TensorFlow (in, out).
"""

from torch.nn import Embedding, Linear  # mirror: stores its kernel

__all__ = ["Embedding", "Linear"]
