"""Networks whose parameters are moving averages of another network's.

Mirror notes:
- Both lists are in the order in which the layers were made, in both panels.
"""

import tensorflow as tf

__all__ = ["follow"]


def follow(network, leader, momentum: float) -> None:
    """Parameters = momentum * own + (1 - momentum) * the leader's; running statistics stay unchanged."""
    pairs = zip(network.trainable_variables, leader.trainable_variables, strict=True)  # mirror: order
    for own, other in pairs:
        own.assign(momentum * tf.convert_to_tensor(own) + (1 - momentum) * tf.convert_to_tensor(other))
