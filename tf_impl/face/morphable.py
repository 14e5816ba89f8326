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

import keras
import tensorflow as tf

from tf_impl.layers.model import Model
from tf_impl.losses.pairwise import l2_normalize

__all__ = ["MorphableCriterion", "MorphableFace", "rotation_of", "spherical_harmonics"]

DISTANCE, FOCAL, CENTRE = 10.0, 1015.0, 112.0  # of the camera; image of 224 x 224 pixels
AMBIENT = 0.8  # initial value of the light's first coefficient
FACE = ("identity", "expression", "albedo")  # coefficients that produce it
LIGHT = 27  # coefficients of the light: nine harmonics for three colours


def rotation_of(angles):
    """Rotations about x, then y, then z, for rows of points on their left.  (N, 3) radians -> (N, 3, 3)."""
    x, y, z = tf.unstack(angles, axis=1)
    one, zero = tf.ones_like(x), tf.zeros_like(x)

    def matrix(*rows):
        return tf.stack([tf.stack(row, -1) for row in rows], -2)

    about_x = matrix((one, zero, zero), (zero, tf.cos(x), -tf.sin(x)), (zero, tf.sin(x), tf.cos(x)))
    about_y = matrix((tf.cos(y), zero, tf.sin(y)), (zero, one, zero), (-tf.sin(y), zero, tf.cos(y)))
    about_z = matrix((tf.cos(z), -tf.sin(z), zero), (tf.sin(z), tf.cos(z), zero), (zero, zero, one))
    return tf.transpose(tf.matmul(about_z, tf.matmul(about_y, about_x)), (0, 2, 1))


def spherical_harmonics(normals):
    """The first nine spherical harmonics of directions, with the factors of diffuse light.  (..., 3) -> (..., 9)."""
    x, y, z = tf.unstack(normals, axis=-1)
    a = (math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8))
    c = (1 / math.sqrt(4 * math.pi), math.sqrt(3 / (4 * math.pi)), 3 * math.sqrt(5 / (12 * math.pi)))
    first, second = a[1] * c[1], a[2] * c[2]
    bands = (
        a[0] * c[0] * tf.ones_like(x),
        -first * y,
        first * z,
        -first * x,
        second * x * y,
        -second * y * z,
        0.5 * second / math.sqrt(3) * (3 * z * z - 1),
        -second * x * z,
        0.5 * second * (x * x - y * y),
    )
    return tf.stack(bands, -1)


@keras.saving.register_keras_serializable("diptych")
class MorphableFace(Model):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sizes, self.chosen = tuple(sizes), tuple(landmarks)
        shapes = {"mean_shape": 1, "id_base": sizes[0], "exp_base": sizes[1], "mean_tex": 1, "tex_base": sizes[2]}
        for name, width in shapes.items():  # mirror: buffers
            shape = (3 * num_vertices, width)
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False))

    def directions(self, coefficients, *bases):
        """Weighted sum of directions, (N, V, 3)."""
        bases = tf.concat([tf.convert_to_tensor(base) for base in bases], 1)
        return tf.reshape(tf.matmul(coefficients, bases, transpose_b=True), (-1, bases.shape[0] // 3, 3))

    @staticmethod
    def normals(vertices, triangles, around):
        """Unit normals of the vertices, from the sums over the triangles around them.  (N, V, 3)."""
        first, second, third = (tf.gather(vertices, triangles[:, i], axis=1) for i in range(3))
        (a, b, c), (d, e, f) = (tf.unstack(edge, axis=-1) for edge in (first - second, second - third))
        of_triangles = l2_normalize(
            tf.stack((b * f - c * e, c * d - a * f, a * e - b * d), -1)
        )  # mirror: cross product
        of_triangles = tf.concat((of_triangles, tf.zeros_like(of_triangles[:, :1])), 1)  # where there is no triangle
        return l2_normalize(tf.reduce_sum(tf.gather(of_triangles, around, axis=1), 2))

    def call(self, coefficients, triangles, around, training=False):
        identity, expression, albedo, angles, light, shift = tf.split(coefficients, (*self.sizes, 3, LIGHT, 3), axis=1)
        mean = tf.reshape(self.mean_shape, (1, -1, 3))
        shape = self.directions(tf.concat((identity, expression), 1), self.id_base, self.exp_base)
        shape = shape + mean - tf.reduce_mean(mean, 1, keepdims=True)
        turn = rotation_of(angles)
        x, y, z = tf.unstack(tf.matmul(shape, turn) + shift[:, None], axis=-1)
        z = DISTANCE - z
        pixels = FOCAL * tf.stack((x / z, y / z), -1) + CENTRE
        normals = tf.matmul(self.normals(shape, triangles, around), turn)
        texture = (self.directions(albedo, self.tex_base) + tf.reshape(self.mean_tex, (1, -1, 3))) / 255.0
        first = tf.one_hot(0, LIGHT // 3, dtype=light.dtype)
        lit = tf.reshape(light, (-1, 3, LIGHT // 3)) + AMBIENT * first
        shade = tf.matmul(spherical_harmonics(normals), lit, transpose_b=True)
        return {
            "vertices": tf.stack((x, y, z), -1),
            "pixels": pixels,
            "landmarks": tf.gather(pixels, tf.constant(self.chosen, tf.int32), axis=1),
            "normals": normals,
            "texture": texture,
            "colours": texture * shade,
            "identity": identity,
            "expression": expression,
            "albedo": albedo,
            "light": light,
        }


@keras.saving.register_keras_serializable("diptych")
class MorphableCriterion(keras.layers.Layer):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.parts = tuple(weights)

    def call(self, outputs, targets):
        points = outputs["landmarks"]
        square = tf.reduce_sum(tf.square(points - tf.cast(targets["points"], points.dtype)), 2)
        landmark = tf.reduce_mean(square * tf.cast(targets["share"], points.dtype))
        unusual = [tf.reduce_mean(tf.reduce_sum(tf.square(outputs[part]), 1)) for part in FACE]
        light = tf.reshape(outputs["light"], (-1, 3, LIGHT // 3))
        colour = tf.reduce_mean(tf.square(light - tf.reduce_mean(light, 1, keepdims=True)))
        losses = {
            "landmark": self.parts[0] * landmark,
            "regularisation": sum(weight * part for weight, part in zip(self.parts[1:4], unusual, strict=True)),
            "light": self.parts[4] * colour,
        }
        return {**losses, "total": sum(losses.values())}
