"""Networks that are trained in turn, each with an optimiser of its own.

Mirror notes:
- A graph of operations belongs to the loss in PyTorch; in TensorFlow a tape has to have watched it.
"""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tf_impl import state

__all__ = ["Player"]


class Player:
    """The networks that lower one loss together.

    Args:
        networks: by the name that the model has them under; built.
        optimizer: makes the optimiser of a list of variables.

    ``gradients`` holds those of the last step by name.
    """

    def __init__(self, networks: Mapping[str, keras.layers.Layer], optimizer: Callable):
        self.parameters = {
            f"{name}.{key}": variable.value
            for name, network in networks.items()
            for key, (variable, _) in state.trainable(network).items()
        }
        self.optimizer = optimizer(list(self.parameters.values()))
        self.gradients: dict[str, tf.Tensor] = {}

    def lower(self, loss, tape: tf.GradientTape) -> None:
        """One step down a scalar loss that ``tape`` has recorded; no other network gets a gradient."""
        gradients = tape.gradient(loss, list(self.parameters.values()))  # mirror: belongs to the loss
        self.optimizer.step(gradients)
        self.gradients = dict(zip(self.parameters, gradients))
