"""A morphable face fitted to a photograph: rendered by the camera, it must look like the photograph.

"Accurate 3D Face Reconstruction with Weakly-Supervised Learning", 2019, arXiv:1903.08527, section 3. Numbers and names:
sicxu/Deep3DFaceRecon_pytorch ``models/losses.py``, ``models/facerecon_model.py`` (MIT), whose rasteriser differs. What
to look at: the face's coefficients get gradients from the colours of pixels, through the corners of the triangles.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.face.morphable import CENTRE, MorphableCriterion, MorphableFace
from tf_impl.face.rasterization import rasterize

__all__ = ["MorphableFittingCriterion", "MorphableRenderer"]

EPS = 1e-6  # added to the square of a difference of colours


@keras.saving.register_keras_serializable("diptych")
class MorphableRenderer(MorphableFace):
    """The face and its rendered image.

    Args:
        num_vertices, sizes, landmarks: see :class:`MorphableFace`.
        size: of the image, H and W, to which the camera's 224 x 224 pixels are scaled.

    Inputs: as of :class:`MorphableFace`; F H W numbers must fit into memory, see :func:`rasterize`.
    Returns: dict as of :class:`MorphableFace`, and ``"image"`` (N, H, W, 3), the lit colours, 0 where there is no face;
        ``"mask"`` (N, H, W), 1 where there is one.
    """

    def __init__(
        self,
        num_vertices: int = 35709,
        sizes: tuple[int, int, int] = (80, 64, 80),
        landmarks: tuple[int, ...] = (),
        size: tuple[int, int] = (224, 224),
        **kwargs,
    ):
        super().__init__(num_vertices, sizes, landmarks, **kwargs)
        self.size = tuple(size)

    def call(self, coefficients, triangles, around, training=False):
        outputs = super().call(coefficients, triangles, around)
        share = outputs["pixels"] / (2 * CENTRE)  # of the image, y upwards
        x, y = self.size[1] * share[..., 0], self.size[0] * (1 - share[..., 1])
        screen = tf.stack((x, y, outputs["vertices"][..., 2]), -1)
        drawn = rasterize(screen, triangles, outputs["colours"], self.size)
        return {**outputs, "image": drawn["image"], "mask": tf.cast(drawn["triangle"] >= 0, x.dtype)}


@keras.saving.register_keras_serializable("diptych")
class MorphableFittingCriterion(MorphableCriterion):
    """The losses of :class:`MorphableCriterion`, those of the pixels, and the variance of the skin's colour.

    Args:
        weights: see :class:`MorphableCriterion`.
        photo, reflectance: weights of the two.

    Inputs: ``outputs`` of :class:`MorphableRenderer`; ``targets`` as of :class:`MorphableCriterion`, and ``"image"``
        (N, H, W, 3), the photograph in [0, 1]; ``"seen"`` (N, H, W), 1 where it shows skin; ``"skin"`` (V,), 1 where
        the mesh has skin.
    Returns: its dict, and ``"photo"``, ``"reflectance"``, weighted; ``"total"``.
    """

    def __init__(
        self,
        weights: tuple[float, ...] = (1.6e-3, 1.0, 0.8, 0.017, 10.0),
        photo: float = 1.92,
        reflectance: float = 5.0,
        **kwargs,
    ):
        super().__init__(weights, **kwargs)
        self.photo, self.reflectance = photo, reflectance

    def call(self, outputs, targets):
        losses = super().call(outputs, targets)
        image, texture = outputs["image"], outputs["texture"]
        difference = tf.square(image - tf.cast(targets["image"], image.dtype))
        difference = tf.sqrt(tf.reduce_sum(difference, 3) + EPS)  # (N, H, W); mirror: NHWC
        mask = outputs["mask"] * tf.cast(targets["seen"], image.dtype)
        losses["photo"] = self.photo * tf.reduce_sum(difference * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)
        skin = tf.cast(targets["skin"], texture.dtype)[:, None]
        mean = tf.reduce_sum(skin * texture, 1, keepdims=True) / tf.reduce_sum(skin)
        spread = tf.reduce_mean(tf.reduce_sum(tf.square((texture - mean) * skin), (1, 2)))
        losses["reflectance"] = self.reflectance * spread / tf.reduce_sum(skin)
        return {**losses, "total": losses["total"] + losses["photo"] + losses["reflectance"]}
