"""First Order Motion Model in training: a frame is reconstructed from another one of the same video.

"First Order Motion Model for Image Animation", 2019, arXiv:2003.00196, section 3.3. Names and numbers:
AliaksandrSiarohin/first-order-model ``modules/model.py``, ``train.py`` (MIT). What to look at: a deformed frame must
have deformed points, positions and affine frames alike, which needs the derivative of the deformation; it is written
out here.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- A training step needs gradients of two losses: two tapes here, two calls of ``lower`` in PyTorch.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.face.fomm import (
    AntiAlias,
    Discriminator,
    KPDetector,
    OcclusionAwareGenerator,
    coordinate_grid,
    inverse,
)
from tf_impl.gan._perceptual import PerceptualDistance
from tf_impl.layers.grid_sample import grid_sample
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size
from tf_impl.losses.adversarial import adversarial_loss
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = ["FOMM", "FOMMCriterion", "FOMMTrainer", "bend", "fomm", "fomm_adv"]

CONTROL = 5  # control points of a deformation in each direction
PERCEPTUAL = dict.fromkeys((1, 6, 11, 20, 29), 10.0)  # weights of the first ReLU of VGG-19's stages


def bend(points, theta, control_params):
    """An affine motion plus a thin-plate spline, the same for x and y, with sums of absolute differences as distances.

    Args:
        points: (N or 1, P, 2), x and y in [-1, 1].
        theta: (N, 2, 3) of the affine motion.
        control_params: (N, 1, 25), weights of the control points, which lie on a grid from -1 to 1.

    Returns:
        (N, P, 2) the moved points, (N, P, 2, 2) the derivative there.
    """
    control = tf.reshape(coordinate_grid((CONTROL, CONTROL), points), (-1, 2))
    offset = points[:, :, None] - control  # (N, P, 25, 2)
    distance = tf.reduce_sum(tf.abs(offset), -1)
    logarithm = tf.math.log(distance + 1e-6)  # log(0) at a control point; 1e-6 as in the reference
    spline = tf.reduce_sum(control_params * tf.square(distance) * logarithm, -1, keepdims=True)
    slope = control_params * (2 * distance * logarithm + tf.square(distance) / (distance + 1e-6))
    slope = tf.reduce_sum(slope[..., None] * tf.sign(offset), 2)[:, :, None]  # (N, P, 1, 2)
    moved = tf.matmul(points, theta[:, :, :2], transpose_b=True) + theta[:, None, :, 2]
    return moved + spline, theta[:, None, :, :2] + slope


def mean_distance(a, b):
    """Mean absolute difference of all values."""
    return tf.reduce_mean(tf.abs(a - b))


@keras.saving.register_keras_serializable("diptych")
class FOMM(Model):
    """Detector of points ``kp_detector``, ``generator``, ``discriminator``.

    Args:
        num_kp: points K.
        kp_expansion, kp_features, kp_blocks: of :class:`KPDetector`.
        block_expansion, max_features, num_down_blocks, num_bottleneck_blocks: of :class:`OcclusionAwareGenerator`.
        motion_expansion, motion_features, motion_blocks: the same.
        scale_factor: factor of the size that the detector and the motion network see.
        adversarial: whether there is a discriminator.
        patch_expansion, patch_features, patch_blocks, sn: of :class:`Discriminator`.
        use_kp: whether the discriminator sees the points.
        align_corners: -1 and 1 are centres of pixels, not their outer borders.

    Inputs: ``source``, ``driving`` (N, H, W, 3) in [0, 1], two frames of a video; ``theta``, ``control_params`` of
        :func:`bend`.
    Returns: dict: ``"source_value"`` (N, K, 2) and ``"source_jacobian"`` (N, K, 2, 2) of the points, the same for
        ``"driving"`` and for ``"transformed"``, the points of ``"transformed_frame"`` (N, H, W, 3), the deformed
        driving frame; ``"returned"``, these moved back; ``"prediction"`` (N, H, W, 3) in [0, 1]; with a discriminator
        its answers to the driving frame, ``"real_feature_0"``, ..., ``"real_prediction"``, and to the prediction,
        ``"fake_feature_0"``, ..., ``"fake_prediction"``, see :class:`Discriminator`.
    """

    def __init__(
        self,
        num_kp: int = 10,
        kp_expansion: int = 32,
        kp_features: int = 1024,
        kp_blocks: int = 5,
        block_expansion: int = 64,
        max_features: int = 512,
        num_down_blocks: int = 2,
        num_bottleneck_blocks: int = 6,
        motion_expansion: int = 64,
        motion_features: int = 1024,
        motion_blocks: int = 5,
        scale_factor: float = 0.25,
        adversarial: bool = True,
        patch_expansion: int = 32,
        patch_features: int = 512,
        patch_blocks: int = 4,
        sn: bool = False,
        use_kp: bool = True,
        align_corners: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.align_corners = align_corners
        self.kp_detector = KPDetector(num_kp, kp_expansion, kp_features, kp_blocks, scale_factor)
        self.generator = OcclusionAwareGenerator(
            num_kp,
            block_expansion,
            max_features,
            num_down_blocks,
            num_bottleneck_blocks,
            motion_expansion,
            motion_features,
            motion_blocks,
            scale_factor,
            align_corners,
        )
        self.discriminator = None
        if adversarial:
            patches = (patch_expansion, patch_features, patch_blocks, sn)
            self.discriminator = Discriminator(*patches, num_kp if use_kp else 0)

    def points(self, images, name: str, training=False) -> dict:
        """Points of images, by ``name_value`` and ``name_jacobian``."""
        return {f"{name}_{key}": x for key, x in self.kp_detector(images, training=training).items()}

    def judge(self, fake, real, value, training=False) -> dict:
        """The discriminator's answers; the points get no gradient from them."""
        value = tf.stop_gradient(value)
        found = {f"fake_{key}": x for key, x in self.discriminator(fake, value, training=training).items()}
        return found | {f"real_{key}": x for key, x in self.discriminator(real, value, training=training).items()}

    def transform_frame(self, images, theta, control_params):
        """Deformed images; the outside is reflected."""
        size = map_size(images)
        grid, _ = bend(tf.reshape(coordinate_grid(size, images), (1, -1, 2)), theta, control_params)
        grid = tf.reshape(grid, (-1, *size, 2))
        return grid_sample(images, grid, padding_mode="reflection", align_corners=self.align_corners)

    def call(self, source, driving, theta, control_params, training=False):
        outputs = self.points(source, "source", training) | self.points(driving, "driving", training)
        points = outputs.values()  # positions and affine frames, the source's first
        moved = self.generator(source, *points, training=training)
        outputs["prediction"] = moved["prediction"]
        if self.discriminator is not None:
            outputs |= self.judge(outputs["prediction"], driving, outputs["driving_value"], training)
        frame = outputs["transformed_frame"] = self.transform_frame(driving, theta, control_params)
        outputs |= self.points(frame, "transformed", training)
        value, jacobian = bend(outputs["transformed_value"], theta, control_params)
        jacobian = tf.matmul(jacobian, outputs["transformed_jacobian"])
        return {**outputs, "returned_value": value, "returned_jacobian": jacobian}


@keras.saving.register_keras_serializable("diptych")
class FOMMCriterion(keras.layers.Layer):
    """The players' losses (section 3.3 and the reference's; the discriminator's with squares, arXiv:1611.04076).

    Args:
        scales: sizes at which VGG-19 sees the frames, powers of 1/2.
        weight: of all terms except the discriminator's.
        widths: channels of VGG-19's stages.

    Inputs: ``outputs`` of :class:`FOMM`; ``targets["driving"]`` (N, H, W, 3), the frame to be reconstructed.
    Returns: dict of scalars: ``"perceptual"``, ``"equivariance_value"``, ``"equivariance_jacobian"``, with a
        discriminator ``"gen_gan"`` and ``"feature_matching"``, their sum ``"G"``; with a discriminator its loss
        ``"disc_gan"``; ``"total"``, the sum of both players' losses, which a training step lowers in turn.
    """

    def __init__(
        self,
        scales: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125),
        weight: float = 10.0,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.weight = weight
        self.downs = [AntiAlias(scale) for scale in scales if scale != 1]
        for down in self.downs:
            down.build((None, None, None, 3))
        self.full = 1 in scales
        self.perceptual = PerceptualDistance({k: v * weight / 10 for k, v in PERCEPTUAL.items()}, "l1", widths=widths)

    def generator(self, outputs, images) -> dict:
        """The loss of the generator and of the point detector."""
        fake = outputs["prediction"]
        pairs = ([(fake, images)] if self.full else []) + [(down(fake), down(images)) for down in self.downs]
        losses = {"perceptual": sum(self.perceptual(*pair) for pair in pairs)}
        if "fake_prediction" in outputs:
            features = [key for key in outputs if key.startswith("fake_feature_")]
            pairs = [(outputs[key], tf.stop_gradient(outputs[key.replace("fake", "real")])) for key in features]
            losses["gen_gan"] = adversarial_loss(outputs["fake_prediction"], True, "lsgan")
            losses["feature_matching"] = self.weight * sum(mean_distance(*pair) for pair in pairs)
        values = outputs["driving_value"], outputs["returned_value"]
        losses["equivariance_value"] = self.weight * mean_distance(*values)
        product = tf.matmul(inverse(outputs["driving_jacobian"]), outputs["returned_jacobian"])
        unit = tf.eye(2, dtype=product.dtype)
        losses["equivariance_jacobian"] = self.weight * mean_distance(product, unit)
        return {**losses, "G": sum(losses.values())}

    def discriminator(self, outputs) -> dict:
        """The discriminator's loss."""
        real = adversarial_loss(outputs["real_prediction"], True, "lsgan")
        return {"disc_gan": real + adversarial_loss(outputs["fake_prediction"], False, "lsgan")}

    def call(self, outputs, targets):
        losses = self.generator(outputs, targets["driving"])
        if "fake_prediction" in outputs:
            losses |= self.discriminator(outputs)
        return {**losses, "total": losses["G"] + losses.get("disc_gan", 0.0)}


class FOMMTrainer:
    """Train the detector and the generator, then the discriminator, which sees the old generator's result.

    Args:
        model: a :class:`FOMM`.
        criterion: its losses.
        learning_rate: of both players; in the paper a tenth from epoch 60 and a hundredth from epoch 90 on.
    """

    def __init__(self, model, criterion, learning_rate: float = 2e-4):
        self.model, self.criterion = model, criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        self.generator = Player({"kp_detector": model.kp_detector, "generator": model.generator}, adam)
        self.discriminator = None
        if model.discriminator is not None:
            self.discriminator = Player({"discriminator": model.discriminator}, adam)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``discriminator.*`` from ``"disc_gan"``, all others from ``"G"``."""
        return self.generator.gradients | ({} if self.discriminator is None else self.discriminator.gradients)

    def step(self, inputs, targets) -> dict:
        """One step of each player from the model's inputs by name; returns the losses as each player saw them."""
        names = ("source", "driving", "theta", "control_params")
        with tf.GradientTape() as tape:  # mirror: two tapes
            outputs = self.model(*(inputs[name] for name in names), training=True)
            losses = self.criterion.generator(outputs, targets["driving"])
        self.generator.lower(losses["G"], tape)
        if self.discriminator is not None:
            with tf.GradientTape() as tape:
                given = (outputs["prediction"], inputs["driving"], outputs["driving_value"])
                losses |= self.criterion.discriminator(self.model.judge(*given, training=True))
            self.discriminator.lower(losses["disc_gan"], tape)
        return {**losses, "total": losses["G"] + losses.get("disc_gan", 0.0)}


def fomm(adversarial=False, **options) -> FOMM:
    return FOMM(adversarial=adversarial, **options)


def fomm_adv(adversarial=True, use_kp=True, sn=False, **options) -> FOMM:
    return FOMM(adversarial=adversarial, use_kp=use_kp, sn=sn, **options)
