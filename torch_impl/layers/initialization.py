"""Initial values for all convolutions of a model at once.

A part whose class says ``keeps_initial_values = True``, such as one that starts at zero, is left as it is.

Mirror notes:
- PyTorch fills existing tensors, by functions for a whole model; Keras gives every layer its initial values.
"""

from torch import nn

__all__ = ["kaiming_normal", "kaiming_uniform", "normal"]


def convolutions(model, types):
    """Every convolution that has no initial values of its own."""
    if getattr(model, "keeps_initial_values", False):
        return
    if isinstance(model, types):
        yield model
    for child in model.children():
        yield from convolutions(child, types)


def kaiming_normal(model) -> None:
    """Normal with variance 2 / fan_out for every convolution kernel, biases zero (arXiv:1502.01852)."""
    for module in convolutions(model, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # mirror: fills existing tensors
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def kaiming_uniform(model) -> None:
    """Uniform with variance 2 / fan_in for every convolution kernel, biases zero (arXiv:1502.01852)."""
    for module in convolutions(model, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def normal(model, std: float) -> None:
    """Normal with the given standard deviation for every (transposed) convolution kernel, biases zero."""
    for module in convolutions(model, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
