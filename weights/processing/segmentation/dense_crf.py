"""A fully connected conditional random field that aligns the borders of a segmentation with the image's.

"Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", 2011, arXiv:1210.5644; its messages are
high-dimensional Gaussian filters on a permutohedral lattice ("Fast High-Dimensional Filtering Using the Permutohedral
Lattice", 2010). Numbers: lucasb-eyer/pydensecrf (MIT), as in kazuto1011/deeplab-pytorch ``libs/utils/crf.py`` (MIT).
"""

import numpy as np
from scipy import sparse

__all__ = ["PermutohedralLattice", "dense_crf"]

LEAST = 1e-5  # probability of a label
EPS = 1e-20  # of the reference's normalisation


class PermutohedralLattice:
    """A Gaussian filter of deviation 1 between points: every point against every other and itself.

    A point is spread over the corners of the simplex that it lies in, the lattice is blurred along each of its axes,
    and the point gathers from the same corners. This is an approximation, whose work grows with the number of points.

    Args:
        features: (P, D) positions of the points.
    """

    def __init__(self, features: np.ndarray):
        points, dim = features.shape
        axis = np.arange(dim)
        scaled = features * (np.sqrt(2 / 3) * (dim + 1) / np.sqrt((axis + 1) * (axis + 2)))
        # onto the plane of D + 1 coordinates whose sum is 0
        above = np.concatenate([np.cumsum(scaled[:, ::-1], 1)[:, ::-1], np.zeros((points, 1))], 1)
        elevated = above - np.concatenate([np.zeros((points, 1)), scaled * (axis + 1)], 1)

        up, down = np.ceil(elevated / (dim + 1)) * (dim + 1), np.floor(elevated / (dim + 1)) * (dim + 1)
        nearest = np.where(up - elevated < elevated - down, up, down).astype(np.int64)
        excess = nearest.sum(1, keepdims=True) // (dim + 1)
        rest = elevated - nearest
        order = np.argsort(-rest, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.broadcast_to(np.arange(dim + 1), order.shape), 1)
        rank = rank + excess
        nearest += np.where(rank < 0, dim + 1, np.where(rank > dim, -(dim + 1), 0))
        rank += np.where(rank < 0, dim + 1, np.where(rank > dim, -(dim + 1), 0))

        share = (elevated - nearest) / (dim + 1)
        ordered = np.zeros((points, dim + 1))  # of the coordinate of each rank
        np.put_along_axis(ordered, rank, share, 1)
        barycentric = np.empty((points, dim + 1))
        barycentric[:, 1:] = ordered[:, dim - 1 :: -1] - ordered[:, :0:-1]
        barycentric[:, 0] = 1 + ordered[:, dim] - ordered[:, 0]

        corner = np.arange(dim + 1)[:, None]
        canonical = np.where(axis + corner <= dim, corner, corner - (dim + 1))  # by remainder and rank
        canonical = np.concatenate([canonical, np.where(dim + corner <= dim, corner, corner - (dim + 1))], 1)
        keys = (nearest[:, None] + canonical.T[rank].transpose(0, 2, 1))[..., :dim].reshape(-1, dim)
        low = keys.min(0) - (dim + 1)
        span = keys.max(0) + (dim + 1) - low + 1
        place = np.concatenate([np.cumprod(span[:0:-1])[::-1], [1]])
        codes, index = np.unique((keys - low) @ place, return_inverse=True)
        cells = points * (dim + 1)
        row = np.repeat(np.arange(points), dim + 1)
        shape = (points, len(codes))
        self.spread = sparse.csr_matrix((barycentric.reshape(cells), (row, index.reshape(cells))), shape)
        self.blurs = []
        for direction in range(dim + 1):
            step = -np.ones(dim, np.int64)
            if direction < dim:
                step[direction] = dim
            self.blurs.append(tuple(_found(codes, codes + sign * (step @ place)) for sign in (1, -1)))
        self.alpha = 1 / (1 + 2.0**-dim)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The filtered values (P, C) of the points."""
        lattice = np.concatenate([self.spread.T @ values, np.zeros((1, values.shape[1]))])  # the last cell is empty
        for left, right in self.blurs:
            lattice[:-1] += 0.5 * (lattice[left] + lattice[right])
        return self.alpha * (self.spread @ lattice[:-1])


def _found(codes, wanted):
    """Index of each wanted code, the number of codes if it is missing."""
    index = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[index] == wanted, index, len(codes))


def dense_crf(
    probabilities: np.ndarray,
    image: np.ndarray,
    iterations: int = 10,
    pos_w: float = 3.0,
    pos_xy_std: float = 1.0,
    bi_w: float = 4.0,
    bi_xy_std: float = 67.0,
    bi_rgb_std: float = 3.0,
) -> np.ndarray:
    """The probabilities after mean-field inference; the defaults are those of DeepLab v2.

    Args:
        probabilities: (K, H, W) of the labels.
        image: (H, W, 3), 0 to 255.
        iterations: of the inference.
        pos_w, pos_xy_std: weight of neighbours, and their distance in pixels.
        bi_w, bi_xy_std, bi_rgb_std: weight of pixels of similar colour, their distance in pixels and in colour.

    Returns:
        (K, H, W) float64, sum 1 over the labels.

    Raises:
        ValueError: if the sizes of probabilities and image differ.
    """
    labels, height, width = probabilities.shape
    if image.shape != (height, width, 3):
        raise ValueError(f"image must have the shape {(height, width, 3)} of the probabilities, got {image.shape}")
    place = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)
    kernels = [
        (pos_w, PermutohedralLattice(place / pos_xy_std)),
        (bi_w, PermutohedralLattice(np.concatenate([place / bi_xy_std, colour / bi_rgb_std], 1))),
    ]
    ones = np.ones((height * width, 1))
    kernels = [(weight, kernel, 1 / np.sqrt(kernel(ones) + EPS)) for weight, kernel in kernels]
    logits = np.log(np.clip(probabilities, LEAST, 1.0)).reshape(labels, -1).T
    beliefs = _softmax(logits)
    for _ in range(iterations):
        messages = sum(weight * norm * kernel(norm * beliefs) for weight, kernel, norm in kernels)
        beliefs = _softmax(logits + messages)
    return beliefs.T.reshape(labels, height, width)


def _softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)
