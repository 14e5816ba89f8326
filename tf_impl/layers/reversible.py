"""Reversible residual layers: the backward pass recomputes the activations, so that none has to be kept.

"The Reversible Residual Network: Backpropagation Without Storing Activations", 2017, arXiv:1707.04585. Parameter names:
lucidrains/reformer-pytorch and performer-pytorch ``reversible.py`` (MIT).

Mirror notes:
- PyTorch gives the parameters to an ``autograd.Function``; TensorFlow's ``custom_gradient`` finds them.
- TensorFlow saves memory inside ``tf.function``; in eager mode its tape records the forward pass anyway.
"""

import keras
import tensorflow as tf

from .names import named_layers
from .native import exporting

__all__ = ["ReversibleBlock", "ReversibleSequence"]


@keras.saving.register_keras_serializable("diptych")
class Branch(keras.layers.Layer):
    """One of the two functions of a block."""

    def __init__(self, net, **kwargs):
        super().__init__(**kwargs)
        self.net = net

    def call(self, x, given=()):
        return self.net(x, given)


@keras.saving.register_keras_serializable("diptych")
class ReversibleBlock(keras.layers.Layer):
    """y1 = x1 + f(x2), y2 = x2 + g(y1).

    Args:
        f, g: layers that keep the shape and take a tuple of further tensors, which get no gradient; g's is empty.
            Neither may use dropout, because it runs twice.
    """

    def __init__(self, f, g, **kwargs):
        super().__init__(**kwargs)
        self.f, self.g = Branch(f), Branch(g)

    def call(self, x1, x2, given=()):
        y1 = x1 + self.f(x2, given)
        return y1, x2 + self.g(y1)

    def inverse(self, y1, y2, given=()):
        """The inputs from the outputs."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2, given), x2


def pull(branch, x, gradient, given, sums):
    """The output of a branch and the gradient of its input; the gradients of its parameters are added to ``sums``."""
    parameters = [v.value for v in branch.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = branch(x, given)
    found = tape.gradient(y, [x, *parameters], gradient)
    for p, g in zip(parameters, found[1:]):
        if g is not None:
            sums[p.ref()] = sums[p.ref()] + g if p.ref() in sums else g
    return y, found[0]


def recompute(blocks, given, x1, x2):
    """The blocks; their backward pass runs through the inverses."""

    @tf.custom_gradient  # mirror: saves memory
    def run(x1, x2):
        for block, more in zip(blocks, given):
            x1, x2 = block(x1, x2, more)
        last = x1, x2

        def backward(d1, d2, variables=()):  # mirror: gives the parameters
            y1, y2 = last
            sums = {}
            for block, more in zip(reversed(blocks), reversed(given)):
                g, back = pull(block.g, y1, d2, (), sums)
                y2, d1 = y2 - g, d1 + back
                f, back = pull(block.f, y2, d1, more, sums)
                y1, d2 = y1 - f, d2 + back
            return (d1, d2), [sums.get(v.ref()) for v in variables]

        return last, backward

    return run(x1, x2)


@keras.saving.register_keras_serializable("diptych")
class ReversibleSequence(keras.layers.Layer):
    """Reversible blocks, one after the other.

    Args:
        blocks: pairs (f, g) of :class:`ReversibleBlock`.

    Inputs: ``x1``, ``x2`` of one shape; ``given``, for every block the further arguments of f.
    Returns: y1 and y2.
    """

    def __init__(self, blocks, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [ReversibleBlock(f, g) for f, g in blocks]

    def call(self, x1, x2, given):
        if all(layer.built for _, layer in named_layers(self.blocks)) and not exporting():
            return recompute(list(self.blocks), given, x1, x2)
        for block, more in zip(self.blocks, given):
            x1, x2 = block(x1, x2, more)
        return x1, x2

    def inverse(self, y1, y2, given):
        """The inputs from the outputs."""
        for block, more in zip(reversed(self.blocks), reversed(given)):
            y1, y2 = block.inverse(y1, y2, more)
        return y1, y2
