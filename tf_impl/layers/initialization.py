"""Initial values of convolutions, as classes: a layer that is given one makes its own.

Mirror notes:
- PyTorch fills tensors that exist, by functions of a whole model; Keras gives every layer its initial values.
"""

import keras

__all__ = [
    "KaimingNormal",
    "KaimingUniform",
    "SmallNormal",
]


@keras.saving.register_keras_serializable("diptych")
class KaimingNormal(keras.initializers.VarianceScaling):
    """Normal with variance 2 / fan_out (arXiv:1502.01852)."""  # mirror: fills tensors

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
    """Normal with deviation 0.01, as of detectors' heads."""

    def __init__(self, seed=None):
        super().__init__(stddev=0.01, seed=seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}
