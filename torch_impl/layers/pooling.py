"""Pooling.

Mirror notes:
- PyTorch pads max pooling with -inf and counts the zeros of average pooling unless told otherwise; TensorFlow's "SAME"
  pads on one side and never counts. Padding is explicit there.
"""

from torch.nn import AvgPool2d, MaxPool2d  # mirror: counts the zeros
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d  # mirror: pads max pooling

__all__ = ["AvgPool2d", "MaxPool2d", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"]
