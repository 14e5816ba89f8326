"""Moving averages of a network's parameters, kept outside the network.

Mirror notes:
- The averages are kept under PyTorch's names in both panels.
"""

import keras
import tensorflow as tf

from tf_impl import state

__all__ = ["MovingAverage"]


class MovingAverage:
    """Every parameter p has an average a = momentum a + (1 - momentum) p, which starts as p.

    Args:
        network: whose parameters are followed; built.
        momentum: of the averages.

    ``values`` holds them by name; ``store`` writes them to the network, or to another of the same kind.
    """

    def __init__(self, network: keras.layers.Layer, momentum: float = 0.999):
        self.network, self.momentum = network, momentum
        # mirror: under PyTorch's names
        self.values = {name: tf.identity(p) for name, (p, _) in state.trainable(network).items()}

    def update(self, momentum: float | None = None) -> None:
        """Update the averages once; with another momentum if one is given."""
        momentum = self.momentum if momentum is None else momentum
        for name, (p, _) in state.trainable(self.network).items():
            self.values[name] = momentum * self.values[name] + (1 - momentum) * tf.convert_to_tensor(p)

    def store(self, network: keras.layers.Layer | None = None) -> None:
        """Set the parameters of the network, or of another, to the averages."""
        for name, (p, _) in state.trainable(network or self.network).items():
            p.assign(self.values[name])
