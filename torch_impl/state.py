"""A model's tensors as numpy arrays, and foreign checkpoint files.

Mirror notes:
- PyTorch has ``state_dict`` of its own; the TensorFlow panel walks the attributes of a model.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from weights import store

__all__ = ["load_state_dict", "open_checkpoint", "state_dict"]


def state_dict(model) -> dict[str, np.ndarray]:
    """All tensors of a model, buffers included, copied to NumPy arrays."""
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


class _Ignored:
    """Stands for harmless objects besides the tensors, such as a trainer's arguments; none of them is built."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


# what training scripts save besides the weights
HARMLESS = (
    "argparse.Namespace",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Float32", "Float64", "Int32", "Int64")),
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "types.SimpleNamespace",
)


def _sets(content, depth: int = 2) -> dict[str, Mapping]:
    """The sets of named tensors in a file, by the keys that lead to them."""
    if not isinstance(content, Mapping):
        return {}
    found = {}
    for key, value in content.items() if depth else ():
        if isinstance(key, str):
            found |= {f"{key}.{rest}".rstrip("."): inner for rest, inner in _sets(value, depth - 1).items()}
    named = any(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
    return found or ({"": content} if named else {})


def open_checkpoint(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch checkpoint file (``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.pth.tar``) as numpy arrays.

    Nothing but tensors and plain containers is unpickled; a trainer's arguments and NumPy scalars are skipped.
    If the file nests its tensors in a dictionary, for example under ``state_dict``, that is found.

    Args:
        path: the file.
        key: which set of weights, if the file holds several: "state_dict_ema", or "ema.shadow" below two keys.

    Raises:
        ValueError: if the file is damaged, holds other objects, holds no tensors, or holds several sets of them and
            ``key`` does not say which.
    """
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in HARMLESS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if foreign:
            raise ValueError(
                f"{path}: holds an object of type {foreign[1]}, and only tensors are read, nothing was loaded; "
                "save them alone: torch.save(model.state_dict(), path)"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a checkpoint of plain tensors, nothing was loaded ({reason[:200]})") from None
    sets = _sets(content)
    if not sets:
        raise ValueError(f"{path}: holds no tensors by name; a PyTorch state_dict was expected")
    if key is None and len(sets) > 1:
        raise ValueError(f"{path}: holds several sets of weights, {', '.join(sets)}; choose one as the key")
    if key is not None and key not in sets:
        raise ValueError(f"{path}: has no weights under the key {key!r}; it has {', '.join(sets) or 'one set'}")
    chosen = sets[key] if key is not None else next(iter(sets.values()))
    tensors = {str(name): value for name, value in chosen.items() if isinstance(value, torch.Tensor)}
    return {
        name: value.detach().float().numpy() if value.dtype == torch.bfloat16 else value.detach().numpy()
        for name, value in tensors.items()
    }
