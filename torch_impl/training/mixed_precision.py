"""Training in half precision: which layers compute in it, and a loss scale that adapts itself.

"Mixed Precision Training", 2017, arXiv:1710.03740. The state machine of the scale: ``torch.amp.GradScaler`` (BSD).

Parameters, the optimiser's state, normalisation statistics and losses stay in single precision; the kernels are cast
where they are used, so that their gradients arrive in single precision.

Mirror notes:
- PyTorch has ``torch.autocast``, which chooses a precision for every operation; Keras has dtype policies: every layer
  computes in half precision, except for normalisation statistics.
- TensorFlow's CPU kernels sum a convolution kernel's gradient in half precision, PyTorch's in single precision.
- PyTorch keeps the gradients on the parameters, TensorFlow hands them to the optimiser.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

__all__ = ["DynamicLossScaler", "MixedPrecisionTrainer", "StaticLossScaler", "autocast"]

DTYPES = ("float16", "bfloat16", "float32")


@contextlib.contextmanager
def autocast(model, dtype: str) -> Iterator[None]:
    """Let a model compute in another precision inside the block.

    Args:
        model: a model in single precision.
        dtype: "float16", "bfloat16", or "float32" for no change.

    Raises:
        ValueError: if ``dtype`` is another one.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
    device = next(model.parameters()).device.type
    with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):  # mirror: torch.autocast
        yield


class DynamicLossScaler:
    """A factor of the loss that is halved when a gradient overflows and doubled after a while without.

    Args:
        scale: factor of the first step.
        growth_factor, backoff_factor: what the factor is multiplied by.
        growth_interval: steps without overflow before it grows. It never grows beyond single precision.
        min_scale: it never falls below; None for no limit.
    """

    def __init__(
        self,
        scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        min_scale: float | None = None,
    ):
        self.scale, self.growth_factor, self.backoff_factor = np.float32(scale), growth_factor, backoff_factor
        self.growth_interval, self.min_scale = growth_interval, min_scale
        self.growth_tracker = 0

    def scale_loss(self, loss):
        """The loss times the scale."""
        return loss * float(self.scale)

    def unscale(self, gradients: Sequence) -> tuple[list, bool]:
        """Gradients (entries may be None) over the scale, and whether any of them is not finite."""
        inverse = float(np.float32(1.0) / self.scale)
        found = [None if gradient is None else gradient * inverse for gradient in gradients]
        finite = [torch.isfinite(gradient).all() for gradient in found if gradient is not None]
        return found, not bool(torch.stack(finite).all())

    def update(self, overflow: bool) -> None:
        """The scale of the next step."""
        if overflow:
            self.scale, self.growth_tracker = np.float32(self.scale * np.float32(self.backoff_factor)), 0
            if self.min_scale is not None:
                self.scale = max(self.scale, np.float32(self.min_scale))
            return
        self.growth_tracker += 1
        if self.growth_tracker == self.growth_interval:
            with np.errstate(over="ignore"):
                grown = self.scale * np.float32(self.growth_factor)
            self.scale, self.growth_tracker = grown if np.isfinite(grown) else self.scale, 0

    def state_dict(self) -> dict:
        """Everything the next steps depend on, under ``torch.amp.GradScaler``'s names."""
        return {
            "scale": float(self.scale),
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self.growth_tracker,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.scale, self.growth_tracker = np.float32(state["scale"]), state["_growth_tracker"]
        self.growth_factor, self.backoff_factor = state["growth_factor"], state["backoff_factor"]
        self.growth_interval = state["growth_interval"]


class StaticLossScaler(DynamicLossScaler):
    """A fixed factor of the loss; a step that overflows is skipped anyway.

    Args:
        scale: the factor.
    """

    def __init__(self, scale: float = 512.0):
        super().__init__(scale)

    def update(self, overflow: bool) -> None:
        """Nothing changes."""


class MixedPrecisionTrainer:
    """Training steps in mixed precision.

    A step that overflows changes running statistics, but neither parameters nor the optimiser's state.

    Args:
        model: a model in single precision.
        criterion: ``(outputs, targets)`` -> dict of scalars with "total".
        optimizer: of the model's parameters.
        scaler: one of the loss scalers.
        dtype: see :func:`autocast`.
        max_norm: gradients are clipped to this global norm, after the scale is taken out; None: no clipping.
    """

    def __init__(self, model, criterion, optimizer, scaler, dtype: str = "float16", max_norm: float | None = None):
        self.model, self.criterion, self.optimizer, self.scaler = model, criterion, optimizer, scaler
        self.dtype, self.max_norm = dtype, max_norm

    def step(self, *batches) -> tuple[list, bool]:
        """One update from the mean gradient of one or more batches.

        Args:
            batches: (inputs, targets) each: the model's arguments, and the criterion's targets.

        Returns:
            The losses of every batch, and whether the parameters were updated.
        """
        self.model.train()
        self.optimizer.zero_grad()
        history = []
        for inputs, targets in batches:
            with autocast(self.model, self.dtype):
                outputs = self.model(*inputs)
            losses = self.criterion(in_single_precision(outputs), targets)
            self.scaler.scale_loss(losses["total"] / len(batches)).backward()
            history.append({name: loss.detach() for name, loss in losses.items()})
        parameters = list(self.model.parameters())
        # mirror: sum a convolution kernel's gradient
        gradients, overflow = self.scaler.unscale([parameter.grad for parameter in parameters])
        if not overflow:
            for parameter, gradient in zip(parameters, clipped(gradients, self.max_norm), strict=True):
                parameter.grad = gradient  # mirror: keeps the gradients on
            self.optimizer.step()
        self.scaler.update(overflow)
        return history, not overflow


def in_single_precision(outputs):
    """A tensor, or a dictionary of tensors, with floats in single precision."""
    if isinstance(outputs, Mapping):
        return {name: in_single_precision(value) for name, value in outputs.items()}
    return outputs.float() if outputs.is_floating_point() else outputs


def clipped(gradients: Sequence, max_norm: float | None) -> list:
    """Gradients times max_norm / norm, if their global norm is larger."""
    if max_norm is None:
        return list(gradients)
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients if gradient is not None))
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)  # the reference's guard
    return [None if gradient is None else gradient * factor for gradient in gradients]
