"""Networks that are trained in turn, each with its own optimiser.

Mirror notes:
- In PyTorch the graph of operations belongs to the loss; in TensorFlow a tape must have recorded it.
"""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from tf_impl import state

__all__ = ["Player"]


class Player:
    """The networks that lower one loss together.

    Args:
        networks: by their names in the model; built.
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
