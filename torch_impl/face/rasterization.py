"""Rasterisation of triangles: the nearest one in every pixel, or a differentiable mixture of all that are close.

The hard one is the z-buffer with barycentric coordinates. The soft one: "Soft Rasterizer: A Differentiable Renderer for
Image-based 3D Reasoning", 2019, arXiv:1904.01786, equations 1 to 4; constants: ShichenLiu/SoftRas (MIT). What to look
at: all triangles are compared with all pixels at once, without a loop, which takes memory for F H W numbers; the
nearest triangle's coordinates are recomputed, so gradients only need three corners per pixel.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import torch
import torch.nn.functional as F

from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax

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
    a, b, c = corners.unbind(-2)
    area = cross(b - a, c - a)
    flat = area.abs() < FLAT
    a, b, c = a - points, b - points, c - points
    shares = torch.stack((cross(b, c), cross(c, a), cross(a, b)), -1)
    return torch.where(flat[..., None], -1.0, shares / torch.where(flat, 1.0, area)[..., None])


def pixel_centres(size, like):
    """Centres x and y of all pixels, row by row.  (H W, 2)."""
    y, x = (torch.arange(n, device=like.device).to(like.dtype) + 0.5 for n in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def rasterize(vertices, triangles, attributes, size: tuple[int, int] = (224, 224)) -> dict:
    """The nearest triangle of every pixel.

    Args:
        vertices: (N, V, 3): x to the right and y downwards in pixels, the first pixel's centre at 0.5; depth, larger is
            farther.
        triangles: (F, 3) int64 vertices, in either orientation; among equally near ones the first is seen.
        attributes: (N, V, C) of the vertices, such as colours.
        size: of the image, H and W.

    Returns:
        dict: ``"image"`` (N, C, H, W), the attributes, interpolated linearly, 0 where there is nothing; ``"depth"`` (N,
        H, W); ``"triangle"`` (N, H, W) int64, -1 for nothing; ``"shares"`` (N, H, W, 3), its barycentric coordinates.
    """
    points = pixel_centres(size, vertices)
    fixed = vertices.detach()[:, triangles]  # (N, F, 3, 3)
    shares = barycentric(fixed[:, :, None, :, :2], points)  # (N, F, H W, 3)
    inside = (shares >= 0).all(-1)
    depth = (shares * fixed[:, :, None, :, 2]).sum(-1)
    winner = argmax(-torch.where(inside, depth, FAR_AWAY), 1)  # (N, H W)
    seen = inside.any(1)
    index = triangles[winner].flatten(1)  # (N, 3 H W)
    corners = take_rows(vertices, index).unflatten(1, (-1, 3))
    shares = barycentric(corners[..., :2], points)
    shares = torch.where(seen[..., None], shares, 0.0)
    image = (shares[..., None] * take_rows(attributes, index).unflatten(1, (-1, 3))).sum(2)
    return {
        "image": image.transpose(1, 2).unflatten(2, size),  # mirror: NCHW
        "depth": (shares * corners[..., 2]).sum(-1).unflatten(1, size),
        "triangle": torch.where(seen, winner, -1).unflatten(1, size),
        "shares": shares.unflatten(1, size),
    }


def squared_distance(corners, points):
    """Square of the distance of points from the nearest side.  (..., 3, 2), (..., 2) -> (...)."""
    found = []
    for first, second in PAIRS:
        start, side = corners[..., first, :], corners[..., second, :] - corners[..., first, :]
        length = side.square().sum(-1).clamp(min=FLAT)  # two corners at one point
        along = (((points - start) * side).sum(-1) / length).clamp(0, 1)
        found.append((points - start - along[..., None] * side).square().sum(-1))
    return torch.stack(found).amin(0)


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
        dict: ``"image"`` (N, C, H, W), 0 where there is nothing; ``"silhouette"`` (N, H, W) in [0, 1].
    """
    points, corners = pixel_centres(size, vertices), vertices[:, triangles][:, :, None]  # (N, F, 1, 3, 3)
    shares = barycentric(corners[..., :2], points)  # (N, F, H W, 3)
    distance = squared_distance(corners[..., :2], points) * (2 / max(size)) ** 2
    logits = torch.where((shares >= 0).all(-1), distance, -distance) / sigma
    shares = shares.clamp(0, 1)
    # 0 for a triangle without an inside; 1e-5 as in SoftRas
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=1e-5)
    depth = (shares * corners[..., 2]).sum(-1)
    seen = (depth >= near) & (depth <= far)
    uncovered = logits.relu() + F.softplus(-logits.abs())  # minus the logarithm of 1 - sigmoid(x)
    heights = (logits - uncovered) + (far - depth) / (far - near) / gamma
    heights = torch.where(seen, heights, -FAR_AWAY)
    highest = heights.detach().amax(1).clamp(min=background / gamma)  # otherwise exp(1e4)
    weights = (heights - highest[:, None]).exp()
    total = weights.sum(1) + (background / gamma - highest).exp()
    colours = torch.matmul(shares, attributes[:, triangles])  # (N, F, H W, C)
    image = (weights[..., None] * colours).sum(1) / total[..., None]
    covered = torch.where(seen, uncovered, 0.0).sum(1)  # of the product of what every triangle lets through
    return {
        "image": image.transpose(1, 2).unflatten(2, size),
        "silhouette": (1 - (-covered).exp()).unflatten(1, size),
    }
