"""A model's tensors as numpy arrays, and foreign checkpoint files.

Mirror notes:
- PyTorch has ``state_dict`` of its own; the TensorFlow panel walks the attributes of a model.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from weights import store

__all__ = ["load_state_dict", "open_checkpoint", "state_dict"]


def state_dict(model) -> dict[str, np.ndarray]:
    """All tensors of a model, buffers included, as numpy arrays of their own."""
    # mirror: of its own
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def load_state_dict(model, tensors: Mapping[str, np.ndarray], strict: bool = True) -> None:
    """Set parameters and buffers of a model.

    Args:
        model: a module.
        tensors: arrays under the module's own names.
        strict: refuse missing and unexpected names; otherwise only what is in both is loaded.

    Raises:
        ValueError: lists every missing, unexpected and misshapen entry; the model is unchanged then.
    """
    own = model.state_dict()
    store.check({name: tuple(tensor.shape) for name, tensor in own.items()}, tensors, strict=strict)
    with torch.no_grad():
        for name in own.keys() & tensors.keys():
            own[name].copy_(torch.from_numpy(np.array(tensors[name])))


def open_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch checkpoint file (``.pth``, ``.pt``, ``.bin``) as numpy arrays.

    Nothing but tensors and plain containers is unpickled. A dictionary under ``state_dict``, ``model_state_dict`` or
    ``model`` is used if the file wraps its tensors in one.

    Raises:
        ValueError: if the file is damaged, holds other objects, or holds no tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a checkpoint of plain tensors, nothing was loaded ({reason[:200]})") from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name; a PyTorch state_dict was expected")
    return {
        name: value.detach().float().numpy() if value.dtype == torch.bfloat16 else value.detach().numpy()
        for name, value in tensors.items()
    }
