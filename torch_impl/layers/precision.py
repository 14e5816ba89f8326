"""Single precision where half is not enough: coordinates beyond 256 or 2,048 lose whole pixels in half precision.

Mirror notes:
- A Keras layer casts its inputs to its policy's precision; one that is given boxes must not (``autocast=False``).
"""

import torch

__all__ = ["single"]


def single(x):
    """A tensor of floats in at least single precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
