"""3DMM: a face is a mean plus a few directions in which faces differ; pose, light and camera make an image of it.

"A Morphable Model for the Synthesis of 3D Faces", 1999, 10.1145/311535.311556; with expressions and this camera:
"Accurate 3D Face Reconstruction with Weakly-Supervised Learning", 2019, arXiv:1903.08527. Numbers and names:
sicxu/Deep3DFaceRecon_pytorch ``models/bfm.py``, ``models/losses.py`` (MIT). What to look at: the light is nine
spherical harmonics of the normals, so it needs no rays. The Basel model cannot be redistributed: its arrays are
    buffers.

Mirror notes:
- The arrays of the model are buffers in PyTorch, non-trainable variables in Keras.
- TensorFlow's cross product does not export, so it is written out.
"""

import math

import torch
from torch import nn

from torch_impl.losses.pairwise import l2_normalize

__all__ = ["MorphableCriterion", "MorphableFace", "rotation_of", "spherical_harmonics"]

DISTANCE, FOCAL, CENTRE = 10.0, 1015.0, 112.0  # of the camera; image of 224 x 224 pixels
AMBIENT = 0.8  # initial value of the light's first coefficient
FACE = ("identity", "expression", "albedo")  # coefficients that produce it
LIGHT = 27  # coefficients of the light: nine harmonics for three colours


def rotation_of(angles):
    """Rotations about x, then y, then z, for rows of points on their left.  (N, 3) radians -> (N, 3, 3)."""
    x, y, z = angles.unbind(1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)

    def matrix(*rows):
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    about_x = matrix((one, zero, zero), (zero, x.cos(), -x.sin()), (zero, x.sin(), x.cos()))
    about_y = matrix((y.cos(), zero, y.sin()), (zero, one, zero), (-y.sin(), zero, y.cos()))
    about_z = matrix((z.cos(), -z.sin(), zero), (z.sin(), z.cos(), zero), (zero, zero, one))
    return torch.matmul(about_z, torch.matmul(about_y, about_x)).transpose(1, 2)


def spherical_harmonics(normals):
    """The first nine spherical harmonics of directions, with the factors of diffuse light.  (..., 3) -> (..., 9)."""
    x, y, z = normals.unbind(-1)
    a = (math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8))
    c = (1 / math.sqrt(4 * math.pi), math.sqrt(3 / (4 * math.pi)), 3 * math.sqrt(5 / (12 * math.pi)))
    first, second = a[1] * c[1], a[2] * c[2]
    bands = (
        a[0] * c[0] * torch.ones_like(x),
        -first * y,
        first * z,
        -first * x,
        second * x * y,
        -second * y * z,
        0.5 * second / math.sqrt(3) * (3 * z * z - 1),
        -second * x * z,
        0.5 * second * (x * x - y * y),
    )
    return torch.stack(bands, -1)


class MorphableFace(nn.Module):
    """The face's mesh, lit and projected.

    Args:
        num_vertices: V.
        sizes: how many coefficients of identity, expression and texture.
        landmarks: vertices that are landmarks.

    Inputs: ``coefficients`` (N, A + B + T + 33): identity, expression, texture, three angles, 27 of the light, three
        of the shift; ``triangles`` (F, 3) int64 vertices; ``around`` (V, 8) int64 triangles of every vertex, F for
        none.
    Returns: dict: ``"vertices"`` (N, V, 3) in front of the camera; ``"pixels"`` (N, V, 2), y upwards, ``"landmarks"``
        (N, L, 2) of them; ``"normals"`` (N, V, 3); ``"texture"``, ``"colours"`` (N, V, 3), without and with light;
        ``"identity"``, ``"expression"``, ``"albedo"``, ``"light"``, the parts of the coefficients.
    """

    def __init__(
        self,
        num_vertices: int = 35709,
        sizes: tuple[int, int, int] = (80, 64, 80),
        landmarks: tuple[int, ...] = (),
    ):
        super().__init__()
        self.sizes, self.chosen = tuple(sizes), tuple(landmarks)
        shapes = {"mean_shape": 1, "id_base": sizes[0], "exp_base": sizes[1], "mean_tex": 1, "tex_base": sizes[2]}
        for name, width in shapes.items():  # mirror: buffers
            self.register_buffer(name, torch.zeros(3 * num_vertices, width))

    def directions(self, coefficients, *bases):
        """Weighted sum of directions, (N, V, 3)."""
        bases = torch.cat(bases, 1)
        return torch.matmul(coefficients, bases.t()).reshape(-1, bases.shape[0] // 3, 3)

    @staticmethod
    def normals(vertices, triangles, around):
        """Unit normals of the vertices, from the sums over the triangles around them.  (N, V, 3)."""
        first, second, third = (vertices[:, triangles[:, i]] for i in range(3))
        of_triangles = l2_normalize(torch.linalg.cross(first - second, second - third))  # mirror: cross product
        of_triangles = torch.cat((of_triangles, torch.zeros_like(of_triangles[:, :1])), 1)  # where there is no triangle
        return l2_normalize(of_triangles[:, around].sum(2))

    def forward(self, coefficients, triangles, around):
        identity, expression, albedo, angles, light, shift = coefficients.split((*self.sizes, 3, LIGHT, 3), 1)
        mean = self.mean_shape.reshape(1, -1, 3)
        shape = self.directions(torch.cat((identity, expression), 1), self.id_base, self.exp_base)
        shape = shape + mean - mean.mean(1, keepdim=True)
        turn = rotation_of(angles)
        x, y, z = (torch.matmul(shape, turn) + shift[:, None]).unbind(-1)
        z = DISTANCE - z
        pixels = FOCAL * torch.stack((x / z, y / z), -1) + CENTRE
        normals = torch.matmul(self.normals(shape, triangles, around), turn)
        texture = (self.directions(albedo, self.tex_base) + self.mean_tex.reshape(1, -1, 3)) / 255.0
        first = (torch.arange(LIGHT // 3, device=light.device) == 0).to(light.dtype)
        lit = light.reshape(-1, 3, LIGHT // 3) + AMBIENT * first
        shade = torch.matmul(spherical_harmonics(normals), lit.transpose(1, 2))
        return {
            "vertices": torch.stack((x, y, z), -1),
            "pixels": pixels,
            "landmarks": pixels[:, list(self.chosen)],
            "normals": normals,
            "texture": texture,
            "colours": texture * shade,
            "identity": identity,
            "expression": expression,
            "albedo": albedo,
            "light": light,
        }


class MorphableCriterion(nn.Module):
    """Losses of the landmarks' distances and of unusual coefficients.

    Args:
        weights: of the landmarks, of identity, expression and texture, and of the light's colour.

    Inputs: ``outputs`` of :class:`MorphableFace`; ``targets["points"]`` (N, L, 2) pixels, ``targets["share"]`` (L,),
        weights of the landmarks.
    Returns: dict of scalars, weighted: ``"landmark"``, ``"regularisation"``, ``"light"``, ``"total"``, their sum.
    """

    def __init__(
        self,
        weights: tuple[float, ...] = (1.6e-3, 1.0, 0.8, 0.017, 10.0),
    ):
        super().__init__()
        self.parts = tuple(weights)

    def forward(self, outputs, targets):
        points = outputs["landmarks"]
        square = (points - targets["points"].to(points.dtype)).square().sum(2)
        landmark = (square * targets["share"].to(points.dtype)).mean()
        unusual = [outputs[part].square().sum(1).mean() for part in FACE]
        light = outputs["light"].reshape(-1, 3, LIGHT // 3)
        colour = (light - light.mean(1, keepdim=True)).square().mean()
        losses = {
            "landmark": self.parts[0] * landmark,
            "regularisation": sum(weight * part for weight, part in zip(self.parts[1:4], unusual, strict=True)),
            "light": self.parts[4] * colour,
        }
        return {**losses, "total": sum(losses.values())}
