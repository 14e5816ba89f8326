"""Rasterisation of triangles: the nearest one in every pixel, or a differentiable mixture of all that are close.

The hard one is the z-buffer with barycentric coordinates. The soft one: "Soft Rasterizer: A Differentiable Renderer for
Image-based 3D Reasoning", 2019, arXiv:1904.01786, equations 1 to 4; constants: ShichenLiu/SoftRas (MIT). What to look
at: all triangles are compared with all pixels at once, without a loop, which takes memory for F H W numbers; the
nearest triangle's coordinates are recomputed, so gradients only need three corners per pixel.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import tensorflow as tf

from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax

__all__ = ["barycentric", "rasterize", "rasterize_soft"]

FAR_AWAY = 1e10  # depth of nothing
FLAT = 1e-10  # twice the area, in square pixels, below which a triangle has no inside
PAIRS = ((0, 1), (1, 2), (2, 0))  # corners of the sides


def cross(a, b):
    """The third coordinate of the cross product of plane vectors.  (..., 2) twice -> (...)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def barycentric(corners, points):
    """Barycentric coordinates of points; inside, all are at least 0.

    Args:
        corners: (..., 3, 2).
        points: (..., 2).

    Returns:
        (..., 3), of sum 1; -1 for a triangle without an inside.
    """
    a, b, c = tf.unstack(corners, axis=-2)
    area = cross(b - a, c - a)
    flat = tf.abs(area) < FLAT
    a, b, c = a - points, b - points, c - points
    shares = tf.stack((cross(b, c), cross(c, a), cross(a, b)), -1)
    one = tf.ones((), area.dtype)
    return tf.where(flat[..., None], -one, shares / tf.where(flat, one, area)[..., None])


def pixel_centres(size, like):
    """Centres x and y of all pixels, row by row.  (H W, 2)."""
    y, x = (tf.range(n, dtype=like.dtype) + 0.5 for n in size)
    return tf.reshape(tf.stack(tf.meshgrid(x, y), -1), (-1, 2))


def rasterize(vertices, triangles, attributes, size: tuple[int, int] = (224, 224)) -> dict:
    """The nearest triangle of every pixel.

    Args:
        vertices: (N, V, 3): x to the right and y downwards in pixels, the first pixel's centre at 0.5; depth, larger is
            farther.
        triangles: (F, 3) int64 vertices, in either orientation; among equally near ones the first is seen.
        attributes: (N, V, C) of the vertices, such as colours.
        size: of the image, H and W.

    Returns:
        dict: ``"image"`` (N, H, W, C), the attributes, interpolated linearly, 0 where there is nothing; ``"depth"`` (N,
        H, W); ``"triangle"`` (N, H, W) int64, -1 for nothing; ``"shares"`` (N, H, W, 3), its barycentric coordinates.
    """
    points, zero = pixel_centres(size, vertices), tf.zeros((), vertices.dtype)
    fixed = tf.gather(tf.stop_gradient(vertices), triangles, axis=1)  # (N, F, 3, 3)
    shares = barycentric(fixed[:, :, None, :, :2], points)  # (N, F, H W, 3)
    inside = tf.reduce_all(shares >= 0, -1)
    depth = tf.reduce_sum(shares * fixed[:, :, None, :, 2], -1)
    winner = argmax(-tf.where(inside, depth, zero + FAR_AWAY), 1)  # (N, H W)
    seen, count = tf.reduce_any(inside, 1), size[0] * size[1]
    index = tf.reshape(tf.gather(triangles, winner), (-1, 3 * count))  # (N, 3 H W)
    corners = tf.reshape(take_rows(vertices, index), (-1, count, 3, 3))
    shares = barycentric(corners[..., :2], points)
    shares = tf.where(seen[..., None], shares, zero)
    own = tf.reshape(take_rows(attributes, index), (-1, count, 3, attributes.shape[2]))
    image = tf.reduce_sum(shares[..., None] * own, 2)
    return {
        "image": tf.reshape(image, (-1, *size, image.shape[2])),  # mirror: NHWC
        "depth": tf.reshape(tf.reduce_sum(shares * corners[..., 2], -1), (-1, *size)),
        "triangle": tf.reshape(tf.where(seen, winner, -tf.ones_like(winner)), (-1, *size)),
        "shares": tf.reshape(shares, (-1, *size, 3)),
    }


def squared_distance(corners, points):
    """Square of the distance of points from the nearest side.  (..., 3, 2), (..., 2) -> (...)."""
    found = []
    for first, second in PAIRS:
        start, side = corners[..., first, :], corners[..., second, :] - corners[..., first, :]
        length = tf.maximum(tf.reduce_sum(tf.square(side), -1), FLAT)  # two corners at one point
        along = tf.clip_by_value(tf.reduce_sum((points - start) * side, -1) / length, 0, 1)
        found.append(tf.reduce_sum(tf.square(points - start - along[..., None] * side), -1))
    return tf.reduce_min(tf.stack(found), 0)


def rasterize_soft(
    vertices,
    triangles,
    attributes,
    size: tuple[int, int] = (224, 224),
    near: float = 1.0,
    far: float = 100.0,
    sigma: float = 1e-4,
    gamma: float = 1e-4,
    background: float = 1e-3,
) -> dict:
    """All triangles, weighted by how close each is to a pixel and to the camera.

    Args:
        vertices, triangles, attributes, size: see :func:`rasterize`.
        near, far: depths of weights 1 and 0; only what lies between them is seen.
        sigma: softness of the borders, in squares of half the longer side of the image.
        gamma: softness in depth.
        background: depth of the background, from 1 (near) to 0 (far).

    Returns:
        dict: ``"image"`` (N, H, W, C), 0 where there is nothing; ``"silhouette"`` (N, H, W) in [0, 1].
    """
    points, zero = pixel_centres(size, vertices), tf.zeros((), vertices.dtype)
    corners = tf.gather(vertices, triangles, axis=1)[:, :, None]  # (N, F, 1, 3, 3)
    shares = barycentric(corners[..., :2], points)  # (N, F, H W, 3)
    distance = squared_distance(corners[..., :2], points) * (2 / max(size)) ** 2
    logits = tf.where(tf.reduce_all(shares >= 0, -1), distance, -distance) / sigma
    shares = tf.clip_by_value(shares, 0, 1)
    shares = shares / tf.maximum(
        tf.reduce_sum(shares, -1, keepdims=True), 1e-5
    )  # 0 for a triangle without an inside; as in SoftRas
    depth = tf.reduce_sum(shares * corners[..., 2], -1)
    seen = (depth >= near) & (depth <= far)
    uncovered = tf.nn.relu(logits) + tf.math.softplus(-tf.abs(logits))  # minus the logarithm of 1 - sigmoid(x)
    heights = (logits - uncovered) + (far - depth) / (far - near) / gamma
    heights = tf.where(seen, heights, zero - FAR_AWAY)
    highest = tf.maximum(tf.reduce_max(tf.stop_gradient(heights), 1), background / gamma)  # otherwise exp(1e4)
    weights = tf.exp(heights - highest[:, None])
    total = tf.reduce_sum(weights, 1) + tf.exp(background / gamma - highest)
    colours = tf.matmul(shares, tf.gather(attributes, triangles, axis=1))  # (N, F, H W, C)
    image = tf.reduce_sum(weights[..., None] * colours, 1) / total[..., None]
    covered = tf.reduce_sum(tf.where(seen, uncovered, zero), 1)  # of the product of what every triangle lets through
    return {
        "image": tf.reshape(image, (-1, *size, image.shape[2])),
        "silhouette": tf.reshape(1 - tf.exp(-covered), (-1, *size)),
    }
