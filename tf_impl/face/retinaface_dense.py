"""RetinaFace with meshes: every anchor also predicts its face's shape, texture, pose and light.

"RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019, arXiv:1905.00641, section 3.2. There is no
official code of this branch, and its mesh cannot be redistributed: a sphere replaces it; names and widths are ours.
What to look at: meshes have no labels; a rendered face only has to look like the image at its anchor.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.face.morphable import MorphableFace, rotation_of
from tf_impl.face.rasterization import rasterize_soft
from tf_impl.face.retinaface import (
    STEPS,
    Head,
    MobileNet025,
    RetinaFace,
    RetinaFaceCriterion,
    RetinaFacePostProcess,
)
from tf_impl.layers.grid_sample import grid_sample
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.precision import single
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.losses.pairwise import l2_normalize
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


@keras.saving.register_keras_serializable("diptych", "retinaface_dense.ChebConv")
class ChebConv(keras.layers.Layer):
    """A convolution over a graph: Chebyshev polynomials of its Laplacian (arXiv:1606.09375), a linear layer.

    Args:
        units: width.

    x: (R, V, D), laplacian: (V, V), scaled -> (R, V, units).
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.linear = Dense(units)

    def call(self, x, laplacian):
        terms = [x, tf.matmul(laplacian, x)]
        for _ in range(2, ORDER):
            terms.append(2 * tf.matmul(laplacian, terms[-1]) - terms[-2])
        return self.linear(tf.concat(terms, 2))


@keras.saving.register_keras_serializable("diptych")
class DenseFace(Model):
    """A mesh from its code, and its rendered image.

    Args:
        levels: refinements of the spheres, coarse to fine, see ``weights/processing/face/spheres.py``.
        width: features of a vertex.
        size: of the image, h and w.
        sigma, gamma: softness, see :func:`rasterize_soft`.

    Inputs: ``codes`` (R, 144): 128 of shape and texture; shift, angles about x, y and z, logarithm of the focal length;
        position of the lamp, its colour, the ambient light's colour minus 1.
    Returns: dict: ``"vertices"`` (R, V, 3), x and y in pixels of the image, y downwards, and depth; ``"colours"``
        (R, V, 3) RGB, lit; ``"image"`` (R, h, w, 3) RGB in [0, 1] where the light is weak, ``"silhouette"`` (R, h, w).
    """

    def __init__(
        self,
        levels: tuple[int, ...] = (0, 1, 2, 3),
        width: int = 32,
        size: tuple[int, int] = (32, 32),
        sigma: float = 1e-4,
        gamma: float = 1e-4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width, self.size, self.softness = width, tuple(size), {"sigma": sigma, "gamma": gamma}
        self.meshes = [sphere(level) for level in levels]
        self.fc = Dense(len(self.meshes[0].vertices) * width)
        self.convs = [ChebConv(width) for _ in levels[1:]]
        self.last = ChebConv(6)

    def decode(self, codes):
        """Shape (R, V, 3) and texture (R, V, 3)."""
        x = tf.reshape(self.fc(codes), (-1, len(self.meshes[0].vertices), self.width))
        mean = tf.constant(self.meshes[-1].vertices, codes.dtype)
        for mesh, conv in zip(self.meshes[1:], self.convs, strict=True):
            larger, laplacian = (tf.constant(m, x.dtype) for m in (mesh.enlargement, self.laplacian(mesh)))
            x = tf.nn.relu(conv(tf.matmul(larger, x), laplacian))
        laplacian = tf.constant(self.laplacian(self.meshes[-1]), x.dtype)
        form, texture = tf.split(self.last(x, laplacian), 2, 2)
        return mean + single(form), GREY + single(texture)

    @staticmethod
    def laplacian(mesh):
        """Scaled Laplacian of a mesh, (V, V)."""
        return scaled_laplacian(mesh.triangles, len(mesh.vertices))

    def shade(self, vertices, texture, lamp, colour, ambient, triangles):
        """Colours of vertices lit by a lamp at a position, and by ambient light."""
        around = tf.constant(triangles_around(self.meshes[-1].triangles, vertices.shape[1]))
        normals = MorphableFace.normals(vertices, triangles, around)
        towards = l2_normalize(lamp[:, None] - vertices)
        bright = tf.nn.relu(tf.reduce_sum(normals * towards, 2, keepdims=True))
        return texture * (1 + ambient[:, None] + colour[:, None] * bright)

    def call(self, codes, training=False):
        form, shift, angles, zoom, lamp, colour, ambient = tf.split(single(codes), CODE, 1)
        vertices, texture = self.decode(form)
        triangles = tf.constant(self.meshes[-1].triangles)
        vertices = tf.matmul(vertices, rotation_of(angles)) + shift[:, None]
        colours = self.shade(vertices, texture, lamp, colour, ambient, triangles)
        x, y, z = tf.unstack(vertices, axis=2)
        height, width = self.size
        depth = tf.maximum(DISTANCE - z, 1.0)  # nothing lies in the camera
        zoom = 0.5 * FILLED * min(self.size) * DISTANCE * tf.exp(zoom) / depth
        vertices = tf.stack((width / 2 + zoom * x, height / 2 - zoom * y, depth), -1)
        return {
            "vertices": vertices,
            "colours": colours,
            **rasterize_soft(vertices, triangles, colours, self.size, **self.softness),
        }


@keras.saving.register_keras_serializable("diptych")
class RetinaFaceDense(RetinaFace):
    """The detector.

    Args:
        body, out_channels: see :class:`RetinaFace`.
        levels, width, size, sigma, gamma: of the meshes, see :class:`DenseFace`.
        faces: anchors per image whose meshes are rendered in training, P.

    Inputs: as of :class:`RetinaFace`; ``targets`` of the criterion.
    Returns: dict as of :class:`RetinaFace`, ``"codes"`` (N, A, 144); with targets also ``"rendered"`` and ``"crops"``
        (N, P, h, w, 3), the rendered faces and the image at their anchors, RGB, and ``"chosen"`` (N, P) bool.
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
        **kwargs,
    ):
        super().__init__(body, out_channels, **kwargs)
        self.faces = faces
        self.DenseHead = [Head(sum(CODE)) for _ in STEPS]  # mirror: infers
        self.mesh = DenseFace(levels, width, size, sigma, gamma)

    def crops(self, images, boxes):
        """Image crops of boxes (N, P, 4), RGB in [0, 1].  (N, P, h, w, 3)."""
        rows, columns = ((tf.range(n, dtype=boxes.dtype) + 0.5) / n for n in self.mesh.size)
        first, last = boxes[..., None, None, :2], boxes[..., None, None, 2:]
        share = tf.stack(tf.meshgrid(columns, rows), -1)  # (h, w, 2)
        grid = first + share * (last - first)  # (N, P, h, w, 2)
        grid = 2 * grid / tf.cast(tf.stack(map_size(images)[::-1]), boxes.dtype) - 1
        pictures = tf.reverse(images + tf.constant(MEAN, images.dtype), (3,)) / 255
        height, width = self.mesh.size
        found = grid_sample(pictures, tf.reshape(grid, (-1, boxes.shape[1] * height, width, 2)))
        return tf.reshape(found, (-1, boxes.shape[1], height, width, 3))  # mirror: NHWC

    def call(self, images, targets=None, training=False):
        levels = self.levels(images, training)
        outputs = self.answers(images, levels)
        outputs["codes"] = tf.concat([head(x) for head, x in zip(self.DenseHead, levels)], 1)
        if targets is None:
            if not self.mesh.fc.built:
                self.mesh(outputs["codes"][:, 0])
            return outputs
        boxes = tf.cast(targets["boxes"], images.dtype)
        _, positive, _ = RetinaFaceCriterion().assign(boxes, targets["valid"], outputs["anchors"])
        chosen, index = top_k(tf.cast(positive, images.dtype), self.faces)
        codes = tf.reshape(take_rows(outputs["codes"], index), (-1, sum(CODE)))
        drawn = self.mesh(codes, training=training)["image"]
        return {
            **outputs,
            "rendered": tf.reshape(drawn, (-1, self.faces, *self.mesh.size, 3)),
            "crops": self.crops(images, tf.gather(outputs["anchors"], index)),
            "chosen": chosen > 0,
        }


@keras.saving.register_keras_serializable("diptych")
class RetinaFaceDenseCriterion(RetinaFaceCriterion):
    """The losses of :class:`RetinaFaceCriterion`, and the difference of rendered faces and images (equation 4).

    Args:
        overlap, negatives, box_weight: see :class:`RetinaFaceCriterion`; the model renders faces by the defaults.
        pixel_weight: of the pixels' loss.

    Inputs: ``outputs`` of :class:`RetinaFaceDense`, which was given the targets; ``targets`` as of
        :class:`RetinaFaceCriterion`.
    Returns: its dict, and ``"pixel"``, sums of absolute differences of the colours, mean over pixels and faces.
    """

    def __init__(
        self,
        overlap: float = 0.35,
        negatives: int = 7,
        box_weight: float = 2.0,
        pixel_weight: float = 0.01,
        **kwargs,
    ):
        super().__init__(overlap, negatives, box_weight, **kwargs)
        self.pixel_weight = pixel_weight

    def call(self, outputs, targets):
        losses = super().call(outputs, targets)
        difference = tf.reduce_sum(tf.abs(outputs["rendered"] - outputs["crops"]), 4)
        difference = tf.reduce_mean(difference, (2, 3))  # (N, P)
        chosen = outputs["chosen"]
        pixel = tf.reduce_sum(tf.where(chosen, difference, tf.zeros([], difference.dtype)))
        pixel = pixel / tf.maximum(tf.reduce_sum(tf.cast(chosen, difference.dtype)), 1.0)
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
