"""Reversible residual layers: the backward pass recomputes the activations, so that none has to be kept.

"The Reversible Residual Network: Backpropagation Without Storing Activations", 2017, arXiv:1707.04585. Parameter names:
lucidrains/reformer-pytorch and performer-pytorch ``reversible.py`` (MIT).

Mirror notes:
- PyTorch gives the parameters to an ``autograd.Function``; TensorFlow's ``custom_gradient`` finds them.
- TensorFlow saves memory inside ``tf.function``; in eager mode its tape records the forward pass anyway.
"""

import torch
from torch import nn

from .native import exporting

__all__ = ["ReversibleBlock", "ReversibleSequence"]


class Branch(nn.Module):
    """One of the two functions of a block."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, given=()):
        return self.net(x, given)


class ReversibleBlock(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1).

    Args:
        f, g: modules that keep the shape and take a tuple of further tensors, which get no gradient; g's is empty.
            Neither may use dropout, because it runs twice.
    """

    def __init__(self, f, g):
        super().__init__()
        self.f, self.g = Branch(f), Branch(g)

    def forward(self, x1, x2, given=()):
        y1 = x1 + self.f(x2, given)
        return y1, x2 + self.g(y1)

    def inverse(self, y1, y2, given=()):
        """The inputs from the outputs."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2, given), x2


def pull(branch, x, gradient, given, sums):
    """The output of a branch and the gradient of its input; the gradients of its parameters are added to ``sums``."""
    parameters = [p for p in branch.parameters() if p.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = branch(x, given)
        found = torch.autograd.grad(y, [x, *parameters], gradient, allow_unused=True)
    for p, g in zip(parameters, found[1:]):
        if g is not None:
            sums[p] = sums[p] + g if p in sums else g
    return y.detach(), found[0]


class Recompute(torch.autograd.Function):  # mirror: gives the parameters
    """The blocks; their backward pass runs through the inverses."""

    @staticmethod
    def forward(ctx, blocks, given, x1, x2, *parameters):
        ctx.blocks, ctx.given, ctx.parameters = blocks, given, parameters
        for block, more in zip(blocks, given):
            x1, x2 = block(x1, x2, more)
        ctx.save_for_backward(x1, x2)  # mirror: saves memory
        return x1, x2

    @staticmethod
    def backward(ctx, d1, d2):
        y1, y2 = ctx.saved_tensors
        sums = {}
        for block, more in zip(reversed(ctx.blocks), reversed(ctx.given)):
            g, back = pull(block.g, y1, d2, (), sums)
            y2, d1 = y2 - g, d1 + back
            f, back = pull(block.f, y2, d1, more, sums)
            y1, d2 = y1 - f, d2 + back
        return None, None, d1, d2, *(sums.get(p) for p in ctx.parameters)


class ReversibleSequence(nn.Module):
    """Reversible blocks, one after the other.

    Args:
        blocks: pairs (f, g) of :class:`ReversibleBlock`.

    Inputs: ``x1``, ``x2`` of one shape; ``given``, for every block the further arguments of f.
    Returns: y1 and y2.
    """

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(ReversibleBlock(f, g) for f, g in blocks)

    def forward(self, x1, x2, given):
        if torch.is_grad_enabled() and not exporting():
            return Recompute.apply(list(self.blocks), given, x1, x2, *self.parameters())
        for block, more in zip(self.blocks, given):
            x1, x2 = block(x1, x2, more)
        return x1, x2

    def inverse(self, y1, y2, given):
        """The inputs from the outputs."""
        for block, more in zip(reversed(self.blocks), reversed(given)):
            y1, y2 = block.inverse(y1, y2, more)
        return y1, y2
