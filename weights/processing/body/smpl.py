"""The arrays of a published body, from the file that its owners give out.

Files in the old format are Python objects; they are not opened here, because that would run what is in them: save their
arrays with ``numpy.savez`` under the same names first.
"""

from pathlib import Path

import numpy as np

__all__ = ["BodyError", "read_body"]

KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


class BodyError(ValueError):
    """A file is not that of a body; one line says which and why."""


def read_body(path: str | Path, num_betas: int = 10) -> tuple[dict[str, np.ndarray], tuple[int, ...], np.ndarray]:
    """A body's arrays under the names of the panels' ``SMPL``.

    Args:
        path: a .npz file with ``v_template``, ``shapedirs``, ``posedirs``, ``J_regressor``, ``weights``,
            ``kintree_table`` and ``f``.
        num_betas: numbers of the shape, the first of those in the file.

    Returns:
        Tensors by name, float32; the parent of every joint; the faces (F, 3).

    Raises:
        BodyError: if the file is something else, or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in KEYS}
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BodyError(f"{path}: not a file of arrays ({reason}); give a .npz file") from None
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise BodyError(f"{path}: lacks {', '.join(missing)}; a body has {', '.join(KEYS)}")
    posedirs = arrays["posedirs"]
    tensors = {
        "v_template": arrays["v_template"],
        "shapedirs": arrays["shapedirs"][..., :num_betas],
        "J_regressor": arrays["J_regressor"],
        "posedirs": posedirs.reshape(-1, posedirs.shape[-1]).T,
        "lbs_weights": arrays["weights"],
    }
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1  # the file has the largest number there is
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    return tensors, tuple(int(n) for n in parents), arrays["f"].astype(np.int64)
