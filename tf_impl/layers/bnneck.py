"""Batch normalisation of vectors whose shift stays at zero.

"Bag of Tricks and A Strong Baseline for Deep Person Re-identification", 2019, arXiv:1903.07071, section 3.6; the last
layer of SimCLR's head, too. Checkpoints contain the shift, so it exists here, but it is never trained.

Mirror notes:
- PyTorch has parameters without a gradient, Keras variables that are not trainable.
"""

import keras

from .normalization import BatchNormalization

__all__ = ["BNNeck"]


@keras.saving.register_keras_serializable("diptych")
class BNNeck(BatchNormalization):
    """Batch normalisation without a learned shift.  (N, C) -> (N, C)."""

    def build(self, input_shape):
        super().build(input_shape)
        self.beta.trainable = False  # mirror: parameters without
