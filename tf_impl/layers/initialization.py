"""Initial values for all convolutions of a model at once.

A part whose class says ``keeps_initial_values = True``, such as one that starts as zero, is left as it is.

Mirror notes:
- PyTorch fills tensors that exist; Keras builds lazily, so a layer is told its initializer before it builds.
"""

import keras

from .convolution import Conv2d, ConvTranspose2d

__all__ = ["KaimingNormal", "KaimingUniform", "SmallNormal", "kaiming_normal", "kaiming_uniform", "normal"]


@keras.saving.register_keras_serializable("diptych")
class KaimingNormal(keras.initializers.VarianceScaling):
    """Normal with variance 2 / fan_out (arXiv:1502.01852). A layer that is given the class makes its own."""

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_out", "untruncated_normal", seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("diptych")
class KaimingUniform(keras.initializers.VarianceScaling):
    """Uniform with variance 2 / fan_in (arXiv:1502.01852). A layer that is given the class makes its own."""

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_in", "uniform", seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("diptych")
class SmallNormal(keras.initializers.RandomNormal):
    """Normal with deviation 0.01, as of detectors' heads. A layer that is given the class makes its own."""

    def __init__(self, seed=None):
        super().__init__(stddev=0.01, seed=seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


def convolutions(model, types):
    """Every convolution that has no initial values of its own."""
    if getattr(model, "keeps_initial_values", False):
        return
    if isinstance(model, types):
        yield model
    for child in model._flatten_layers(include_self=False, recursive=False):
        yield from convolutions(child, types)


def kaiming_normal(model) -> None:
    """Normal with variance 2 / fan_out for every convolution kernel, biases zero (arXiv:1502.01852)."""
    for layer in convolutions(model, Conv2d):
        # mirror: PyTorch fills tensors
        layer.kernel_initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        layer.bias_initializer = "zeros"


def kaiming_uniform(model) -> None:
    """Uniform with variance 2 / fan_in for every convolution kernel, biases zero (arXiv:1502.01852)."""
    for layer in convolutions(model, Conv2d):
        layer.kernel_initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "uniform")
        layer.bias_initializer = "zeros"


def normal(model, std: float) -> None:
    """Normal with the given standard deviation for every (transposed) convolution kernel, biases zero."""
    for layer in convolutions(model, (Conv2d, ConvTranspose2d)):
        layer.kernel_initializer = keras.initializers.RandomNormal(stddev=std)
        layer.bias_initializer = "zeros"
