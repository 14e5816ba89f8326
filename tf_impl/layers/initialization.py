"""Initial values, as classes: every layer gets its own.

Mirror notes:
- PyTorch fills existing tensors, by functions for a whole model; Keras gives every layer its initial values.
"""

import keras
import tensorflow as tf

__all__ = [
    "KaimingNormal",
    "KaimingUniform",
    "SmallNormal",
    "ZeroRow",
]


@keras.saving.register_keras_serializable("diptych")
class KaimingNormal(keras.initializers.VarianceScaling):
    """Normal with variance 2 / fan_out (arXiv:1502.01852)."""  # mirror: fills existing tensors

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_out", "untruncated_normal", seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("diptych")
class KaimingUniform(keras.initializers.VarianceScaling):
    """Uniform with variance 2 / fan_in (arXiv:1502.01852)."""

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_in", "uniform", seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("diptych")
class SmallNormal(keras.initializers.RandomNormal):
    """Normal with deviation 0.01, as in the heads of detectors."""

    def __init__(self, seed=None):
        super().__init__(stddev=0.01, seed=seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("diptych")
class ZeroRow(keras.initializers.Initializer):
    """The values of another initialiser, but zeros in the padding's row.

    Args:
        initializer: makes the other rows.
        row: index of the padding.
    """

    def __init__(self, initializer, row: int = 0):
        self.initializer, self.row = keras.initializers.get(initializer), row

    def __call__(self, shape, dtype=None):
        rows = self.initializer(shape, dtype)
        return tf.where(tf.range(shape[0])[:, None] == self.row, tf.zeros_like(rows), rows)

    def get_config(self):
        return {"initializer": keras.initializers.serialize(self.initializer), "row": self.row}
