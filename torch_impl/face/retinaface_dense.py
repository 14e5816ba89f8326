"""RetinaFace with meshes: every anchor also predicts its face's shape, texture, pose and light.

"RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019, arXiv:1905.00641, section 3.2. There is no
official code of this branch, and its mesh cannot be redistributed: a sphere replaces it; names and widths are ours.
What to look at: meshes have no labels; a rendered face only has to look like the image at its anchor.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.face.morphable import MorphableFace, rotation_of
from torch_impl.face.rasterization import rasterize_soft
from torch_impl.face.retinaface import (
    STEPS,
    Head,
    MobileNet025,
    RetinaFace,
    RetinaFaceCriterion,
    RetinaFacePostProcess,
)
from torch_impl.layers.grid_sample import grid_sample
from torch_impl.layers.precision import single
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import top_k
from torch_impl.losses.pairwise import l2_normalize
from weights.processing.face.morphable import triangles_around
from weights.processing.face.spheres import scaled_laplacian, sphere

__all__ = [
    "DenseFace",
    "RetinaFaceDense",
    "RetinaFaceDenseCriterion",
    "RetinaFacePostProcess",
    "retinaface_dense_face",
    "retinaface_dense_mobilenet025",
    "retinaface_dense_resnet50",
]

# shape and texture; camera's shift, angles, focal length; position and colour of the lamp, ambient light
CODE = (128, 3, 3, 1, 3, 3, 3)
ORDER = 3  # of the polynomials of the convolutions over the mesh
DISTANCE, FILLED = 10.0, 0.8  # of the camera; share of the image that the sphere fills
GREY = 0.5  # of the mesh before training
MEAN = (104.0, 117.0, 123.0)  # BGR, subtracted from the images


class ChebConv(nn.Module):
    """A convolution over a graph: Chebyshev polynomials of its Laplacian (arXiv:1606.09375), a linear layer.

    Args:
        in_features, out_features: widths.

    x: (R, V, in_features), laplacian: (V, V), scaled -> (R, V, out_features).
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.linear = nn.Linear(ORDER * in_features, out_features)

    def forward(self, x, laplacian):
        terms = [x, torch.matmul(laplacian, x)]
        for _ in range(2, ORDER):
            terms.append(2 * torch.matmul(laplacian, terms[-1]) - terms[-2])
        return self.linear(torch.cat(terms, 2))


class DenseFace(nn.Module):
    """A mesh from its code, and its rendered image.

    Args:
        levels: refinements of the spheres, coarse to fine, see ``weights/processing/face/spheres.py``.
        width: features of a vertex.
        size: of the image, h and w.
        sigma, gamma: softness, see :func:`rasterize_soft`.

    Inputs: ``codes`` (R, 144): 128 of shape and texture; shift, angles about x, y and z, logarithm of the focal length;
        position of the lamp, its colour, the ambient light's colour minus 1.
    Returns: dict: ``"vertices"`` (R, V, 3), x and y in pixels of the image, y downwards, and depth; ``"colours"``
        (R, V, 3) RGB, lit; ``"image"`` (R, 3, h, w) RGB in [0, 1] where the light is weak, ``"silhouette"`` (R, h, w).
    """

    def __init__(
        self,
        levels: tuple[int, ...] = (0, 1, 2, 3),
        width: int = 32,
        size: tuple[int, int] = (32, 32),
        sigma: float = 1e-4,
        gamma: float = 1e-4,
    ):
        super().__init__()
        self.width, self.size, self.softness = width, tuple(size), {"sigma": sigma, "gamma": gamma}
        self.meshes = [sphere(level) for level in levels]
        self.fc = nn.Linear(CODE[0], len(self.meshes[0].vertices) * width)
        self.convs = nn.ModuleList(ChebConv(width, width) for _ in levels[1:])
        self.last = ChebConv(width, 6)

    def decode(self, codes):
        """Shape (R, V, 3) and texture (R, V, 3)."""
        x = self.fc(codes).reshape(codes.shape[0], -1, self.width)
        mean = torch.from_numpy(self.meshes[-1].vertices).to(x)
        for mesh, conv in zip(self.meshes[1:], self.convs, strict=True):
            larger, laplacian = (torch.from_numpy(m).to(x) for m in (mesh.enlargement, self.laplacian(mesh)))
            x = conv(torch.matmul(larger, x), laplacian).relu()
        form, texture = self.last(x, torch.from_numpy(self.laplacian(self.meshes[-1])).to(x)).split(3, 2)
        return mean + single(form), GREY + single(texture)

    @staticmethod
    def laplacian(mesh):
        """Scaled Laplacian of a mesh, (V, V)."""
        return scaled_laplacian(mesh.triangles, len(mesh.vertices))

    def shade(self, vertices, texture, lamp, colour, ambient, triangles):
        """Colours of vertices lit by a lamp at a position, and by ambient light."""
        around = torch.from_numpy(triangles_around(self.meshes[-1].triangles, vertices.shape[1])).to(triangles)
        normals = MorphableFace.normals(vertices, triangles, around)
        towards = l2_normalize(lamp[:, None] - vertices)
        bright = (normals * towards).sum(2, keepdim=True).relu()
        return texture * (1 + ambient[:, None] + colour[:, None] * bright)

    def forward(self, codes):
        form, shift, angles, zoom, lamp, colour, ambient = single(codes).split(CODE, 1)
        vertices, texture = self.decode(form)
        triangles = torch.from_numpy(self.meshes[-1].triangles).to(codes.device)
        vertices = torch.matmul(vertices, rotation_of(angles)) + shift[:, None]
        colours = self.shade(vertices, texture, lamp, colour, ambient, triangles)
        x, y, z = vertices.unbind(2)
        height, width = self.size
        depth = (DISTANCE - z).clamp(min=1.0)  # nothing lies in the camera
        zoom = 0.5 * FILLED * min(self.size) * DISTANCE * zoom.exp() / depth
        vertices = torch.stack((width / 2 + zoom * x, height / 2 - zoom * y, depth), -1)
        return {
            "vertices": vertices,
            "colours": colours,
            **rasterize_soft(vertices, triangles, colours, self.size, **self.softness),
        }


class RetinaFaceDense(RetinaFace):
    """The detector.

    Args:
        body, out_channels: see :class:`RetinaFace`.
        levels, width, size, sigma, gamma: of the meshes, see :class:`DenseFace`.
        faces: anchors per image whose meshes are rendered in training, P.

    Inputs: as of :class:`RetinaFace`; ``targets`` of the criterion.
    Returns: dict as of :class:`RetinaFace`, ``"codes"`` (N, A, 144); with targets also ``"rendered"`` and ``"crops"``
        (N, P, 3, h, w), the rendered faces and the image at their anchors, RGB, and ``"chosen"`` (N, P) bool.
    """

    def __init__(
        self,
        body,
        out_channels: int = 256,
        levels: tuple[int, ...] = (0, 1, 2, 3),
        width: int = 32,
        size: tuple[int, int] = (32, 32),
        sigma: float = 1e-4,
        gamma: float = 1e-4,
        faces: int = 4,
    ):
        super().__init__(body, out_channels)
        self.faces = faces
        self.DenseHead = nn.ModuleList(Head(out_channels, sum(CODE)) for _ in STEPS)  # mirror: infers
        self.mesh = DenseFace(levels, width, size, sigma, gamma)

    def crops(self, images, boxes):
        """Image crops of boxes (N, P, 4), RGB in [0, 1].  (N, P, 3, h, w)."""
        rows, columns = ((torch.arange(n).to(boxes) + 0.5) / n for n in self.mesh.size)
        first, last = boxes[..., None, None, :2], boxes[..., None, None, 2:]
        share = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # (h, w, 2)
        grid = first + share * (last - first)  # (N, P, h, w, 2)
        grid = 2 * grid / torch.tensor(map_size(images)[::-1], dtype=boxes.dtype, device=boxes.device) - 1
        pictures = (images + images.new_tensor(MEAN)[:, None, None]).flip(1) / 255
        found = grid_sample(pictures, grid.flatten(1, 2))
        return found.unflatten(2, (boxes.shape[1], -1)).transpose(1, 2)  # mirror: NCHW

    def forward(self, images, targets=None):
        levels = self.levels(images)
        outputs = self.answers(images, levels)
        outputs["codes"] = torch.cat([head(x) for head, x in zip(self.DenseHead, levels)], 1)
        if targets is None:
            return outputs
        boxes = targets["boxes"].to(images)
        _, positive, _ = RetinaFaceCriterion().assign(boxes, targets["valid"], outputs["anchors"])
        chosen, index = top_k(positive.to(images), self.faces)
        drawn = self.mesh(take_rows(outputs["codes"], index).flatten(0, 1))["image"]
        return {
            **outputs,
            "rendered": drawn.unflatten(0, (-1, self.faces)),
            "crops": self.crops(images, outputs["anchors"][index]),
            "chosen": chosen > 0,
        }


class RetinaFaceDenseCriterion(RetinaFaceCriterion):
    """The losses of :class:`RetinaFaceCriterion`, and the difference of rendered faces and images (equation 4).

    Args:
        overlap, negatives, box_weight: see :class:`RetinaFaceCriterion`; the model renders faces by the defaults.
        pixel_weight: of the pixels' loss.

    Inputs: ``outputs`` of :class:`RetinaFaceDense`, which was given the targets; ``targets`` as of
        :class:`RetinaFaceCriterion`.
    Returns: its dict, and ``"pixel"``, sums of absolute differences of the colours, mean over pixels and faces.
    """

    def __init__(self, overlap: float = 0.35, negatives: int = 7, box_weight: float = 2.0, pixel_weight: float = 0.01):
        super().__init__(overlap, negatives, box_weight)
        self.pixel_weight = pixel_weight

    def forward(self, outputs, targets):
        losses = super().forward(outputs, targets)
        difference = (outputs["rendered"] - outputs["crops"]).abs().sum(2).mean((2, 3))  # (N, P)
        chosen = outputs["chosen"]
        pixel = torch.where(chosen, difference, 0.0).sum() / chosen.to(difference).sum().clamp(min=1.0)
        return {**losses, "pixel": pixel, "total": losses["total"] + self.pixel_weight * pixel}


def retinaface_dense_face(**options) -> DenseFace:
    return DenseFace(**options)


def retinaface_dense_mobilenet025(body_width: int = 8, out_channels: int = 64, **options) -> RetinaFaceDense:
    return RetinaFaceDense(MobileNet025(body_width), out_channels, **options)


def retinaface_dense_resnet50(
    layers: tuple[int, ...] = (3, 4, 6, 3),
    planes: tuple[int, ...] = (64, 128, 256, 512),
    out_channels: int = 256,
    **options,
) -> RetinaFaceDense:
    body = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(2, 3, 4))
    return RetinaFaceDense(body, out_channels, **options)
