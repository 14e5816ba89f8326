"""First Order Motion Model: an image moves like another one, by a few points and the affine motion around each.

"First Order Motion Model for Image Animation", 2019, arXiv:2003.00196. Parameter names and numbers:
AliaksandrSiarohin/first-order-model ``modules`` (MIT). What to look at: the points are not labelled, but learnt by
reconstructing one frame from another; around each point the motion is a matrix, and a mask decides which point moves
which pixel.

Mirror notes:
- NHWC here, NCHW in PyTorch; maps of all points are (N, K, H, W, C) here, (N, K, C, H, W) there.
- Keras infers the input widths.
- Spectral normalisation: ``nn.utils.spectral_norm`` in PyTorch, a separate convolution layer in TensorFlow.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D, convolve
from tf_impl.layers.grid_sample import grid_sample
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization, InstanceNormalization
from tf_impl.layers.pooling import avg_pool2d
from tf_impl.layers.resize import map_size, resize_bilinear, resize_nearest

__all__ = [
    "DenseMotionNetwork",
    "Discriminator",
    "KPDetector",
    "OcclusionAwareGenerator",
    "fomm_discriminator",
    "fomm_discriminator_kp",
    "fomm_generator",
    "fomm_kp_detector",
    "relative_motion",
]


def coordinate_grid(size, like):
    """Coordinates of all cells, x and y from -1 to 1 at the centres of the outer ones.  (H, W, 2)."""
    y, x = (2 * tf.cast(tf.range(n), like.dtype) / (n - 1) - 1 for n in size)
    return tf.stack(tf.meshgrid(x, y), -1)


def hills(value, size, variance: float):
    """A Gaussian of height 1 around every point.

    Args:
        value: (N, K, 2), x and y in [-1, 1].
        size: height and width of the maps.
        variance: of the Gaussians.

    Returns:
        (N, K, H, W).
    """
    distance = coordinate_grid(size, value) - value[:, :, None, None]
    return tf.exp(-0.5 * tf.reduce_sum(tf.square(distance), -1) / variance)


def inverse(matrix):
    """Inverse of 2x2 matrices (..., 2, 2), written out."""
    a, b, c, d = (matrix[..., i, j] for i in (0, 1) for j in (0, 1))
    adjugate = tf.stack((tf.stack((d, -b), -1), tf.stack((-c, a), -1)), -2)
    return adjugate / (a * d - b * c)[..., None, None]


def relative_motion(source, driving, first, scale: float = 1.0) -> dict:
    """Points for the source image that move as the driving ones have moved since the first frame.

    Args:
        source, driving, first: dicts of ``"value"`` (N, K, 2) and ``"jacobian"`` (N, K, 2, 2).
        scale: of the movements.

    Returns:
        The same dict.
    """
    change = tf.matmul(driving["jacobian"], inverse(first["jacobian"]))
    return {
        "value": (driving["value"] - first["value"]) * scale + source["value"],
        "jacobian": tf.matmul(change, source["jacobian"]),
    }


def sample(x, grid, align_corners: bool):
    """Sample a map at a grid, which is resized to the map first.

    Args:
        x: (N, H, W, C).
        grid: (N, h, w, 2).
        align_corners: -1 and 1 are centres of pixels, not their outer borders.
    """
    if tuple(x.shape[1:3]) != tuple(grid.shape[1:3]):
        # each coordinate by itself: onnxruntime would wrongly move a transpose of both through the resize
        size, grid = map_size(x), tf.transpose(grid, (0, 3, 1, 2))
        grid = resize_bilinear(tf.reshape(grid, (-1, *grid.shape[2:], 1)), size)
        grid = tf.transpose(tf.reshape(grid, (-1, 2, *size)), (0, 2, 3, 1))
    return grid_sample(x, grid, align_corners=align_corners)


@keras.saving.register_keras_serializable("diptych", "fomm.AntiAlias")
class AntiAlias(keras.layers.Layer):
    """Every 1/scale-th pixel of a map, after blurring.

    Args:
        scale: the inverse of an integer.

    x: (N, H, W, C) -> (N, ceil(H scale), ceil(W scale), C).
    """

    torch_names = {"kernel": ("weight", (3, 2, 0, 1))}

    def __init__(self, scale: float, **kwargs):
        super().__init__(**kwargs)
        self.step = round(1 / scale)

    def build(self, input_shape):
        kernel = np.tile(blur_kernel(self.step)[..., None, None], (1, 1, 1, input_shape[-1]))
        initial = keras.initializers.Constant(kernel)
        self.kernel = self.add_weight(name="kernel", shape=kernel.shape, initializer=initial, trainable=False)

    def call(self, x):
        pad = self.kernel.shape[0] // 2
        kernel = tf.cast(self.kernel, x.dtype)
        return convolve(x, kernel, pads=((pad, pad), (pad, pad)), groups=x.shape[-1])[:, :: self.step, :: self.step]


def blur_kernel(step: int) -> np.ndarray:
    """A Gaussian kernel (k, k) of sum 1, as wide as suits a map of which every step-th pixel is kept."""
    sigma = (step - 1) / 2
    reach = round(4 * sigma)
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.outer(line, line) / line.sum() ** 2


@keras.saving.register_keras_serializable("diptych", "fomm.DownBlock2d")
class DownBlock2d(keras.layers.Layer):
    """Convolution, normalisation, ReLU, halving.  x: (N, H, W, C) -> (N, H / 2, W / 2, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = Conv2D(filters, 3, padding=1), BatchNormalization()

    def call(self, x, training=False):
        return avg_pool2d(tf.nn.relu(self.norm(self.conv(x), training=training)), 2)


@keras.saving.register_keras_serializable("diptych", "fomm.UpBlock2d")
class UpBlock2d(keras.layers.Layer):
    """Doubling, convolution, normalisation, ReLU.  x: (N, H, W, C) -> (N, 2 H, 2 W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = Conv2D(filters, 3, padding=1), BatchNormalization()

    def call(self, x, training=False):
        x = resize_nearest(x, tuple(2 * n for n in map_size(x)))
        return tf.nn.relu(self.norm(self.conv(x), training=training))


@keras.saving.register_keras_serializable("diptych", "fomm.SameBlock2d")
class SameBlock2d(keras.layers.Layer):
    """Convolution of 7x7, normalisation, ReLU.  x: (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = Conv2D(filters, 7, padding=3), BatchNormalization()

    def call(self, x, training=False):
        return tf.nn.relu(self.norm(self.conv(x), training=training))


@keras.saving.register_keras_serializable("diptych", "fomm.ResBlock2d")
class ResBlock2d(keras.layers.Layer):
    """Normalisation, ReLU and convolution twice, and the input.  x: (N, H, W, C) -> the same."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1, self.conv2 = Conv2D(filters, 3, padding=1), Conv2D(filters, 3, padding=1)
        self.norm1, self.norm2 = BatchNormalization(), BatchNormalization()

    def call(self, x, training=False):
        y = self.conv1(tf.nn.relu(self.norm1(x, training=training)))
        return x + self.conv2(tf.nn.relu(self.norm2(y, training=training)))


@keras.saving.register_keras_serializable("diptych", "fomm.Encoder")
class Encoder(keras.layers.Layer):
    """The downward path of :class:`FOMMHourglass`; returns all maps, the input first."""

    def __init__(self, widths: list[int], **kwargs):
        super().__init__(**kwargs)
        self.down_blocks = [DownBlock2d(filters) for filters in widths]

    def call(self, x, training=False):
        maps = [x]
        for block in self.down_blocks:
            maps.append(block(maps[-1], training=training))
        return maps


@keras.saving.register_keras_serializable("diptych", "fomm.Decoder")
class Decoder(keras.layers.Layer):
    """The upward path of :class:`FOMMHourglass`, from all maps of the downward path."""

    def __init__(self, widths: list[int], **kwargs):
        super().__init__(**kwargs)
        self.up_blocks = [UpBlock2d(filters) for filters in widths]

    def call(self, maps, training=False):
        *rest, x = maps
        for block, skip in zip(self.up_blocks, rest[::-1], strict=True):
            x = tf.concat((block(x, training=training), skip), -1)
        return x


@keras.saving.register_keras_serializable("diptych")
class FOMMHourglass(keras.layers.Layer):
    """Down and up again, with the downward maps concatenated to the upward ones; the input itself at the end.

    Args:
        block_expansion: half the width of the first block.
        max_features: upper bound of the channels.
        num_blocks: halvings.

    x: (N, H, W, C) -> (N, H, W, block_expansion + C); H and W multiples of 2^num_blocks.
    """

    def __init__(self, block_expansion: int, max_features: int, num_blocks: int, **kwargs):
        super().__init__(**kwargs)
        widths = [min(max_features, block_expansion * 2**i) for i in range(num_blocks + 1)]
        self.encoder, self.decoder = Encoder(widths[1:]), Decoder(widths[-2::-1])  # mirror: infers

    def call(self, x, training=False):
        return self.decoder(self.encoder(x, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class KPDetector(Model):
    """Points of an image, and the affine frame around each.

    Args:
        num_kp: points K.
        block_expansion, max_features, num_blocks: of the hourglass.
        scale_factor: factor of the input's size.
        temperature: of the softmax over the positions.

    Inputs: (N, H, W, 3) float in [0, 1].
    Returns: dict: ``"value"`` (N, K, 2), x and y in [-1, 1]; ``"jacobian"`` (N, K, 2, 2).
    """

    def __init__(
        self,
        num_kp: int = 10,
        block_expansion: int = 32,
        max_features: int = 1024,
        num_blocks: int = 5,
        scale_factor: float = 0.25,
        temperature: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.num_kp, self.temperature = num_kp, temperature
        self.predictor = FOMMHourglass(block_expansion, max_features, num_blocks)
        self.kp = Conv2D(num_kp, 7)
        unit = keras.initializers.Constant(np.tile([1.0, 0, 0, 1], num_kp))
        self.jacobian = Conv2D(4 * num_kp, 7, kernel_initializer="zeros", bias_initializer=unit)
        self.down = AntiAlias(scale_factor)

    def call(self, images, training=False):
        features = self.predictor(self.down(images), training=training)
        logits = self.kp(features)
        height, width = logits.shape[1:3]
        rows = tf.reshape(logits, (-1, height * width, self.num_kp))
        heat = tf.nn.softmax(rows / self.temperature, 1)  # (N, H W, K); mirror: NHWC
        grid = tf.reshape(coordinate_grid((height, width), heat), (-1, 2))
        jacobian = tf.reshape(self.jacobian(features), (-1, height * width, self.num_kp, 4))
        jacobian = tf.reduce_sum(heat[..., None] * jacobian, 1)
        value = tf.matmul(tf.transpose(heat, (0, 2, 1)), grid[None])
        return {"value": value, "jacobian": tf.reshape(jacobian, (-1, self.num_kp, 2, 2))}


@keras.saving.register_keras_serializable("diptych")
class DenseMotionNetwork(keras.layers.Layer):
    """Where every pixel comes from: a motion for each point and one for the rest, and a mask that selects.

    Args:
        num_kp, block_expansion, max_features, num_blocks, scale_factor: see :class:`KPDetector`.
        variance: of the Gaussians around the points.
        align_corners: see :func:`sample`.

    source: (N, H, W, 3); points of both images -> dict: ``"mask"`` (N, h, w, K + 1), ``"sparse_deformed"``
        (N, K + 1, h, w, 3), ``"deformation"`` (N, h, w, 2), ``"occlusion_map"`` (N, h, w, 1).
    """

    def __init__(
        self,
        num_kp: int = 10,
        block_expansion: int = 64,
        max_features: int = 1024,
        num_blocks: int = 5,
        scale_factor: float = 0.25,
        variance: float = 0.01,
        align_corners: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_kp, self.variance, self.align_corners = num_kp, variance, align_corners
        self.hourglass = FOMMHourglass(block_expansion, max_features, num_blocks)
        self.mask, self.occlusion = Conv2D(num_kp + 1, 7, padding=3), Conv2D(1, 7, padding=3)
        self.down = AntiAlias(scale_factor)

    def motions(self, size, source_value, source_jacobian, driving_value, driving_jacobian):
        """Where every pixel would come from, for the identity and for every point.  (N, K + 1, h, w, 2)."""
        grid = coordinate_grid(size, source_value)
        matrix = tf.matmul(source_jacobian, inverse(driving_jacobian))[:, :, None, None]  # (N, K, 1, 1, 2, 2)
        offset = (grid - driving_value[:, :, None, None])[..., None]
        moved = tf.matmul(matrix, offset)[..., 0] + source_value[:, :, None, None]
        still = tf.tile(grid[None, None], (tf.shape(moved)[0], 1, 1, 1, 1))
        return tf.concat((still, moved), 1)

    def call(self, source, source_value, source_jacobian, driving_value, driving_jacobian, training=False):
        source = self.down(source)
        size, count = map_size(source), self.num_kp + 1
        heat = hills(driving_value, size, self.variance) - hills(source_value, size, self.variance)
        heat = tf.concat((tf.zeros_like(heat[:, :1]), heat), 1)[..., None]  # (N, K + 1, h, w, 1)
        motion = self.motions(size, source_value, source_jacobian, driving_value, driving_jacobian)
        every = tf.reshape(tf.tile(source[:, None], (1, count, 1, 1, 1)), (-1, *source.shape[1:]))
        deformed = sample(every, tf.reshape(motion, (-1, *motion.shape[2:])), self.align_corners)
        deformed = tf.reshape(deformed, (-1, count, *deformed.shape[1:]))
        x = tf.transpose(tf.concat((heat, deformed), -1), (0, 2, 3, 1, 4))  # (N, h, w, K + 1, 4)
        x = self.hourglass(tf.reshape(x, (-1, *x.shape[1:3], 4 * count)), training=training)
        mask = tf.nn.softmax(self.mask(x), -1)
        deformation = tf.reduce_sum(motion * tf.transpose(mask, (0, 3, 1, 2))[..., None], 1)
        return {
            "mask": mask,
            "sparse_deformed": deformed,
            "deformation": deformation,
            "occlusion_map": tf.sigmoid(self.occlusion(x)),
        }


@keras.saving.register_keras_serializable("diptych", "fomm.Middle")
class Middle(keras.layers.Layer):
    """Residual blocks one after the other."""

    def __init__(self, filters: int, count: int, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        for i in range(count):
            setattr(self, f"r{i}", ResBlock2d(filters))

    def call(self, x, training=False):
        for i in range(self.count):
            x = getattr(self, f"r{i}")(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class OcclusionAwareGenerator(Model):
    """The source image, moved.

    Args:
        num_kp: points K.
        block_expansion, max_features: of the generator.
        num_down_blocks, num_bottleneck_blocks: halvings, residual blocks.
        motion_expansion, motion_features, motion_blocks, scale_factor: of the motion network.
        align_corners: see :func:`sample`; the released code dates from when True was the default.

    Inputs: ``source`` (N, H, W, 3) in [0, 1]; ``source_value``, ``driving_value`` (N, K, 2); ``source_jacobian``,
        ``driving_jacobian`` (N, K, 2, 2).
    Returns: dict: that of :class:`DenseMotionNetwork`; ``"deformed"`` (N, H, W, 3), the moved pixels alone;
        ``"prediction"`` (N, H, W, 3) in [0, 1].
    """

    def __init__(
        self,
        num_kp: int = 10,
        block_expansion: int = 64,
        max_features: int = 512,
        num_down_blocks: int = 2,
        num_bottleneck_blocks: int = 6,
        motion_expansion: int = 64,
        motion_features: int = 1024,
        motion_blocks: int = 5,
        scale_factor: float = 0.25,
        align_corners: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.align_corners = align_corners
        motion = (num_kp, motion_expansion, motion_features, motion_blocks, scale_factor)
        self.dense_motion_network = DenseMotionNetwork(*motion, align_corners=align_corners)
        widths = [min(max_features, block_expansion * 2**i) for i in range(num_down_blocks + 1)]
        self.first = SameBlock2d(widths[0])
        self.down_blocks = [DownBlock2d(filters) for filters in widths[1:]]
        self.up_blocks = [UpBlock2d(filters) for filters in widths[-2::-1]]
        self.bottleneck = Middle(widths[-1], num_bottleneck_blocks)
        self.final = Conv2D(3, 7, padding=3)

    def call(self, source, source_value, source_jacobian, driving_value, driving_jacobian, training=False):
        x = self.first(source, training=training)
        for block in self.down_blocks:
            x = block(x, training=training)
        points = (source_value, source_jacobian, driving_value, driving_jacobian)
        outputs = self.dense_motion_network(source, *points, training=training)
        occlusion = outputs["occlusion_map"]
        if tuple(occlusion.shape[1:3]) != tuple(x.shape[1:3]):
            occlusion = resize_bilinear(occlusion, map_size(x))
        x = self.bottleneck(sample(x, outputs["deformation"], self.align_corners) * occlusion, training=training)
        for block in self.up_blocks:
            x = block(x, training=training)
        deformed = sample(source, outputs["deformation"], self.align_corners)
        return {**outputs, "deformed": deformed, "prediction": tf.sigmoid(self.final(x))}


@keras.saving.register_keras_serializable("diptych", "fomm.SpectralConv2D")
class SpectralConv2D(Conv2D):  # mirror: Spectral normalisation
    """Convolution whose kernel is divided by its largest singular value.

    In training, one power iteration moves the two vectors that estimate it.
    """

    torch_names = {
        "bias": ("bias", None),
        "kernel": ("weight_orig", (3, 2, 0, 1)),
        "u": ("weight_u", None),
        "v": ("weight_v", None),
    }

    def build(self, input_shape):
        super().build(input_shape)
        unit = keras.initializers.RandomNormal(stddev=1.0)
        length = int(np.prod(self.kernel.shape[:3]))
        self.u = self.add_weight(name="u", shape=(self.filters,), initializer=unit, trainable=False)
        self.v = self.add_weight(name="v", shape=(length,), initializer=unit.clone(), trainable=False)
        for vector in (self.u, self.v):
            vector.assign(tf.math.l2_normalize(tf.convert_to_tensor(vector)))

    def call(self, inputs, training=False):
        kernel = tf.convert_to_tensor(self.kernel)
        matrix = tf.reshape(tf.transpose(kernel, (3, 2, 0, 1)), (self.filters, -1))
        u, v = tf.convert_to_tensor(self.u), tf.convert_to_tensor(self.v)
        if training:
            fixed = tf.stop_gradient(matrix)
            v = tf.math.l2_normalize(tf.linalg.matvec(fixed, u, transpose_a=True), epsilon=1e-24)
            u = tf.math.l2_normalize(tf.linalg.matvec(fixed, v), epsilon=1e-24)
            self.u.assign(u)
            self.v.assign(v)
        sigma = tf.reduce_sum(u * tf.linalg.matvec(matrix, v))
        return tf.nn.bias_add(self.convolution_op(inputs, kernel / sigma), tf.convert_to_tensor(self.bias))


@keras.saving.register_keras_serializable("diptych", "fomm.PatchBlock")
class PatchBlock(keras.layers.Layer):
    """Convolution of 4x4 without padding, normalisation, leaky ReLU, half the size.

    Args:
        filters: of the convolution.
        norm, pool, sn: whether there is an instance normalisation, a pooling, a spectral normalisation.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(self, filters: int, norm: bool, pool: bool, sn: bool, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.sn, self.pool = (SpectralConv2D if sn else Conv2D)(filters, 4), sn, pool
        self.norm = InstanceNormalization(center=True, scale=True) if norm else None
        self.activation = LeakyReLU(0.2)

    def call(self, x, training=False):
        x = self.conv(x, training=training) if self.sn else self.conv(x)
        x = self.activation(x if self.norm is None else self.norm(x))
        return avg_pool2d(x, 2) if self.pool else x


@keras.saving.register_keras_serializable("diptych", "fomm.PatchDiscriminator")
class PatchDiscriminator(keras.layers.Layer):
    """Whether patches of an image are real.

    Args:
        block_expansion, max_features, num_blocks: of the convolutions.
        sn: spectral normalisation.
        num_kp: points whose Gaussians are concatenated to the image; 0 for none.
        variance: of the Gaussians.

    x: (N, H, W, 3), value: (N, K, 2) -> dict: ``"feature_0"``, ... maps, ``"prediction"`` (N, H', W', 1).
    """

    def __init__(
        self,
        block_expansion: int = 32,
        max_features: int = 512,
        num_blocks: int = 4,
        sn: bool = True,
        num_kp: int = 0,
        variance: float = 0.01,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sn, self.num_kp, self.variance = sn, num_kp, variance
        widths = [min(max_features, block_expansion * 2 ** (i + 1)) for i in range(num_blocks)]
        last = num_blocks - 1
        self.down_blocks = [PatchBlock(filters, i > 0, i < last, sn) for i, filters in enumerate(widths)]
        self.conv = (SpectralConv2D if sn else Conv2D)(1, 1)

    def call(self, x, value=None, training=False):
        if self.num_kp:
            heat = hills(value, map_size(x), self.variance)
            x = tf.concat((x, tf.transpose(heat, (0, 2, 3, 1))), -1)
        outputs = {}
        for i, block in enumerate(self.down_blocks):
            x = outputs[f"feature_{i}"] = block(x, training=training)
        outputs["prediction"] = self.conv(x, training=training) if self.sn else self.conv(x)
        return outputs


@keras.saving.register_keras_serializable("diptych", "fomm.Discriminator")
class Discriminator(Model):
    """The discriminator of the full size, under the multi-scale discriminator's names.

    Args:
        block_expansion, max_features, num_blocks, sn, num_kp: see :class:`PatchDiscriminator`.

    Inputs: (N, H, W, 3) in [0, 1]; with points ``value`` (N, K, 2).
    Returns: dict: ``"feature_0"``, ... maps, ``"prediction"`` (N, H', W', 1).
    """

    def __init__(
        self,
        block_expansion: int = 32,
        max_features: int = 512,
        num_blocks: int = 4,
        sn: bool = True,
        num_kp: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.discs = {"1": PatchDiscriminator(block_expansion, max_features, num_blocks, sn, num_kp)}

    def call(self, images, value=None, training=False):
        return self.discs["1"](images, value, training=training)


def fomm_kp_detector(**options) -> KPDetector:
    return KPDetector(**options)


def fomm_generator(**options) -> OcclusionAwareGenerator:
    return OcclusionAwareGenerator(**options)


def fomm_discriminator(**options) -> Discriminator:
    return Discriminator(**options)


def fomm_discriminator_kp(sn=False, num_kp=10, **options) -> Discriminator:
    return Discriminator(sn=sn, num_kp=num_kp, **options)
