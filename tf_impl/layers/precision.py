"""Single precision where half is not enough: coordinates beyond 256 or 2,048 lose whole pixels in half precision.

Mirror notes:
- A Keras layer casts its inputs to its policy's precision; one that is given boxes must not (``autocast=False``).
"""

import tensorflow as tf

__all__ = ["single"]


def single(x):
    """A tensor of floats in at least single precision."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
