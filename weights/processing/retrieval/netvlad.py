"""Initial values of NetVLAD from cluster centres, so that the assignment is nearly hard.

"NetVLAD: CNN architecture for weakly supervised place recognition", 2015, arXiv:1511.07247, appendix A. Numbers:
Nanne/pytorch-NetVlad, whose second variant uses the norm of a centre where the paper uses its square.
"""

import numpy as np

__all__ = ["netvlad_tensors"]

SHARE = 0.01  # weight of the second nearest cluster relative to that of the nearest


def netvlad_tensors(centroids: np.ndarray, descriptors: np.ndarray, bias: bool = False) -> dict[str, np.ndarray]:
    """Tensors by name.

    Args:
        centroids: (K, D).
        descriptors: (N, D), of unit length.
        bias: whether to use the second variant, where the assignment has a bias.

    Returns:
        dict: ``"centroids"`` (K, D), ``"conv.weight"`` (K, D, 1, 1) and, with ``bias``, ``"conv.bias"`` (K,).
    """
    lengths = np.linalg.norm(centroids, axis=1)
    if bias:
        square = np.maximum(((descriptors[:, None] - centroids) ** 2).sum(2), 0)
        nearest = np.sort(square, axis=1)
        alpha = -np.log(SHARE) / (nearest[:, 1] - nearest[:, 0]).mean()
        kernel, extra = 2 * alpha * centroids, {"conv.bias": -alpha * lengths}
    else:
        unit = centroids / lengths[:, None]
        best = np.sort(descriptors @ unit.T, axis=1)[:, ::-1]
        alpha = -np.log(SHARE) / (best[:, 0] - best[:, 1]).mean()
        kernel, extra = alpha * unit, {}
    return {"centroids": centroids, "conv.weight": kernel[:, :, None, None], **extra}
