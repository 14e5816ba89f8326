"""PIFuHD: whether a point in space is inside a person, from the image features where the point is projected.

"PIFuHD: Multi-Level Pixel-Aligned Implicit Function for High-Resolution 3D Human Digitization", 2020, arXiv:2004.00452.
Parameter names: facebookresearch/pifuhd ``lib/model/HGPIFuNetwNML.py``, ``HGPIFuMRNet.py``, ``HGFilters.py``
(CC-BY-NC 4.0; only names and formulas are taken). What to look at: the fine level sees a window of a large image and no
depth; it only knows the third dimension from the coarse level's inner feature.

Mirror notes:
- NHWC here, NCHW in PyTorch; points are (N, P, 3) here, (N, 3, P) there.
- Keras infers the input widths; a block is told whether its shortcut needs the convolution.
"""

import keras
import tensorflow as tf

from tf_impl.gan._patchgan import Normal002, conv, conv_transpose
from tf_impl.gan.cyclegan import ResnetBlock
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv1D
from tf_impl.layers.grid_sample import grid_sample
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import GroupNormalization, InstanceNormalization
from tf_impl.layers.padding import ReflectionPadding2D
from tf_impl.layers.resize import map_size, resize_bicubic, resize_bilinear

__all__ = [
    "GlobalGenerator",
    "HGFilter",
    "PIFu",
    "PIFuCriterion",
    "PIFuHD",
    "PIFuHDCriterion",
    "PIFuHDPostProcess",
    "pifuhd",
    "pifuhd_coarse",
]

DOWNS = 4  # halvings in the normal networks
EPS = 1e-8  # smallest length of a normal
CLIP = 1e-5  # smallest distance of a probability from 0 and 1


@keras.saving.register_keras_serializable("diptych", "pifuhd.GlobalGenerator")
class GlobalGenerator(keras.layers.Layer):
    """A normal map from an image: halvings, residual blocks, doublings (arXiv:1711.11585).

    Args:
        ngf: channels of the first layer.
        blocks: residual blocks.

    x: (N, H, W, 3), H and W multiples of 16 -> (N, H, W, 3) in [-1, 1].
    """

    def __init__(self, ngf: int = 64, blocks: int = 9, **kwargs):
        super().__init__(**kwargs)
        widths = [ngf * 2**i for i in range(DOWNS + 1)]
        model = [ReflectionPadding2D(3), conv(ngf, 7), InstanceNormalization(), keras.layers.ReLU()]
        for filters in widths[1:]:
            model += [conv(filters, 3, strides=2, padding=1), InstanceNormalization(), keras.layers.ReLU()]
        model += [ResnetBlock(widths[-1]) for _ in range(blocks)]
        for filters in widths[-2::-1]:
            up = conv_transpose(filters, 3, strides=2, padding=1, output_padding=1)
            model += [up, InstanceNormalization(), keras.layers.ReLU()]
        model += [ReflectionPadding2D(3), conv(3, 7), keras.layers.Activation("tanh")]
        self.model = keras.Sequential(model)

    def call(self, x, training=False):
        return self.model(x)


@keras.saving.register_keras_serializable("diptych", "pifuhd.ConvBlock")
class ConvBlock(keras.layers.Layer):
    """Normalisation, ReLU and 3x3 convolution three times, all three results concatenated, and a shortcut.

    Args:
        filters: width of the result.
        groups: of the normalisations.
        project: whether the shortcut needs its convolution.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, groups: int = 32, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = conv(filters // 2, 3, padding=1, use_bias=False)
        self.conv2 = conv(filters // 4, 3, padding=1, use_bias=False)
        self.conv3 = conv(filters // 4, 3, padding=1, use_bias=False)
        self.bn1, self.bn2, self.bn3, self.bn4 = (GroupNormalization(groups) for _ in range(4))
        self.downsample = None
        if project:  # mirror: is told
            shortcut = conv(filters, 1, use_bias=False)
            self.downsample = keras.Sequential([self.bn4, keras.layers.ReLU(), shortcut])
        else:  # in the checkpoints, but never called
            self.bn4.build((None, None, None, filters))

    def call(self, x, training=False):
        first = self.conv1(tf.nn.relu(self.bn1(x)))
        second = self.conv2(tf.nn.relu(self.bn2(first)))
        third = self.conv3(tf.nn.relu(self.bn3(second)))
        return tf.concat((first, second, third), -1) + (x if self.downsample is None else self.downsample(x))


@keras.saving.register_keras_serializable("diptych", "pifuhd.HourGlass")
class HourGlass(keras.layers.Layer):
    """Several halvings and doublings, each with a branch at full size.

    Args:
        depth: halvings.
        channels: width.
        groups: of the normalisations.

    x: (N, H, W, channels) -> the same; H and W multiples of 2^depth.
    """

    def __init__(self, depth: int, channels: int, groups: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        for level in range(1, depth + 1):
            for name in (f"b1_{level}", f"b2_{level}", f"b3_{level}"):
                setattr(self, name, ConvBlock(channels, groups))
        self.b2_plus_1 = ConvBlock(channels, groups)

    def descend(self, x, level: int):
        """One halving and everything below it."""
        around = getattr(self, f"b1_{level}")(x)
        y = getattr(self, f"b2_{level}")(tf.nn.avg_pool2d(x, 2, 2, "VALID"))
        y = self.descend(y, level - 1) if level > 1 else self.b2_plus_1(y)
        y = getattr(self, f"b3_{level}")(y)
        return around + resize_bicubic(y, map_size(around), align_corners=True)

    def call(self, x, training=False):
        return self.descend(x, self.depth)


@keras.saving.register_keras_serializable("diptych", "pifuhd.HGFilter")
class HGFilter(keras.layers.Layer):
    """Stacked hourglasses, with a map of features after each.

    Args:
        num_stack, hg_depth: hourglasses and their halvings.
        hg_dim: channels of the features.
        pool: whether the map is halved twice; otherwise once.
        base: channels of the first layer, a quarter of those of the hourglasses.
        groups: of the normalisations.

    x: (N, H, W, 9) -> list of maps (N, H / 4, W / 4, hg_dim), or of half the size without ``pool``.
    """

    def __init__(
        self,
        num_stack: int,
        hg_depth: int,
        hg_dim: int,
        pool: bool = True,
        base: int = 64,
        groups: int = 32,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_stack, self.pool, width = num_stack, pool, 4 * base
        self.conv1, self.bn1 = conv(base, 7, strides=2, padding=3), GroupNormalization(groups)
        self.conv2 = ConvBlock(2 * base, groups, project=True)
        self.conv3 = ConvBlock(2 * base, groups)
        self.conv4 = ConvBlock(width, groups, project=True)
        for i in range(num_stack):
            setattr(self, f"m{i}", HourGlass(hg_depth, width, groups))
            setattr(self, f"top_m_{i}", ConvBlock(width, groups))
            setattr(self, f"conv_last{i}", conv(width, 1))
            setattr(self, f"bn_end{i}", GroupNormalization(groups))
            setattr(self, f"l{i}", conv(hg_dim, 1))
            if i < num_stack - 1:
                setattr(self, f"bl{i}", conv(width, 1))
                setattr(self, f"al{i}", conv(width, 1))

    def call(self, x, training=False):
        x = self.conv2(tf.nn.relu(self.bn1(self.conv1(x))))
        x = self.conv4(self.conv3(tf.nn.avg_pool2d(x, 2, 2, "VALID") if self.pool else x))
        found = []
        for i in range(self.num_stack):
            y = getattr(self, f"top_m_{i}")(getattr(self, f"m{i}")(x))
            y = tf.nn.relu(getattr(self, f"bn_end{i}")(getattr(self, f"conv_last{i}")(y)))
            found.append(getattr(self, f"l{i}")(y))
            if i < self.num_stack - 1:
                x = x + getattr(self, f"bl{i}")(y) + getattr(self, f"al{i}")(found[-1])
        return found


@keras.saving.register_keras_serializable("diptych", "pifuhd.MLP")
class MLP(keras.layers.Layer):
    """A multilayer perceptron over the features of every point.

    Args:
        channels: widths, the features' included.
        res_layers: layers that see the features again.
        merge_layer: index of the layer whose activation is returned too.
        groups: of the normalisations, None for none.

    x: (N, P, channels[0]) -> probability (N, P, 1), inner feature (N, P, C) or None.
    """

    def __init__(
        self, channels: tuple[int, ...], res_layers: tuple[int, ...], merge_layer: int = -1, groups=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.res_layers, self.merge_layer = tuple(res_layers), merge_layer
        self.filters = [
            Conv1D(n, 1, kernel_initializer=Normal002, bias_initializer="zeros")
            for n in channels[1:]  # mirror: infers
        ]
        self.norms = [GroupNormalization(groups) for _ in (channels[1:-1] if groups else ())]
        self.activation = LeakyReLU(0.01)

    def call(self, x, training=False):
        y, inner = x, None
        for i, layer in enumerate(self.filters):
            y = layer(tf.concat((y, x), -1) if i in self.res_layers else y)
            if i < len(self.filters) - 1:
                y = self.activation(self.norms[i](y) if len(self.norms) else y)
            if i == self.merge_layer:
                inner = y
        return tf.sigmoid(y), inner


def project(points, calib):
    """Transform points into the camera's cube.  (N, P, 3), (N, 4, 4) -> (N, P, 3)."""
    return tf.matmul(points, calib[:, :3, :3], transpose_b=True) + calib[:, None, :3, 3]


def inside(points):
    """Whether all coordinates of a point are in [-1, 1].  (N, P, C) -> (N, P, 1), 0 or 1."""
    return tf.cast(tf.reduce_all(tf.abs(points) <= 1, -1, keepdims=True), points.dtype)


def sample(features, points):
    """Sample features at points.  (N, H, W, C), (N, P, 3) -> (N, P, C)."""
    grid = points[:, :, None, :2]
    return grid_sample(features, grid, align_corners=True)[:, :, 0]


def normals(field, points, step: float):
    """Normalised negative gradient of a field, by forward differences.

    Args:
        field: from points (N, P, 3) to values (N, P, 1).
        points: (N, M, 3).
        step: length of the differences.

    Returns:
        (N, M, 3), of unit length.
    """
    shifts = tf.pad(step * tf.eye(3, dtype=points.dtype), ((1, 0), (0, 0)))  # zero, then along every axis
    moved = tf.reshape(points[:, :, None] + shifts, (-1, 4 * points.shape[1], 3))  # mirror: points are
    values = tf.reshape(field(moved), (-1, points.shape[1], 4))
    slope = values[..., :1] - values[..., 1:]
    return tf.math.l2_normalize(slope, -1, epsilon=EPS**2)


@keras.saving.register_keras_serializable("diptych")
class PIFu(Model):
    """The coarse level, and the normal networks.

    Args:
        num_stack, hg_depth, hg_dim: of the image's features, see :class:`HGFilter`.
        mlp_dim, res_layers, merge_layer: see :class:`MLP`.
        load_size, z_size: image size in pixels and depth of the person in millimetres; they scale depth.
        ngf, blocks: of the normal networks.
        base, groups: see :class:`HGFilter`.
        delta: step of the differences for normals.

    Inputs: ``images`` (N, H, W, 3) float in [-1, 1], multiples of 16; ``points`` (N, P, 3) and ``normal_points``
        (N, M, 3) in space; ``calib`` (N, 4, 4), from space to the camera's cube.
    Returns: dict: ``"occupancy"`` (N, P, S) probabilities of every stack, 0 outside the cube; ``"inside"`` (N, P, 1), 1
        in the cube; ``"normals"`` (N, M, 3).
    """

    def __init__(
        self,
        num_stack: int = 4,
        hg_depth: int = 2,
        hg_dim: int = 256,
        mlp_dim: tuple[int, ...] = (257, 1024, 512, 256, 128, 1),
        res_layers: tuple[int, ...] = (2, 3, 4),
        merge_layer: int = 2,
        load_size: int = 512,
        z_size: float = 200.0,
        ngf: int = 64,
        blocks: int = 9,
        base: int = 64,
        groups: int = 32,
        delta: float = 0.01,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth_scale, self.delta = load_size // 2 / z_size, delta
        self.image_filter = HGFilter(num_stack, hg_depth, hg_dim, True, base, groups)
        self.mlp = MLP(mlp_dim, res_layers, merge_layer, groups)
        self.netF, self.netB = (GlobalGenerator(ngf, blocks) for _ in range(2))

    def maps(self, images):
        """Features of every stack, and the normals (N, H, W, 6) of front and back, which are not trained here."""
        found = tf.stop_gradient(tf.concat((self.netF(images), self.netB(images)), -1))
        return self.image_filter(tf.concat((images, found), -1)), found

    def query(self, features, points, calib):
        """Probabilities (N, P, 1) and inner features (N, P, C) of points, from one map."""
        points = project(points, calib)
        return self.mlp(tf.concat((sample(features, points), self.depth_scale * points[..., 2:]), -1))

    def level(self, features, points, calib, normal_points):
        """What :meth:`call` returns, and the inner features of the points, from the maps."""
        answers = [self.query(x, points, calib) for x in features]
        within = inside(project(points, calib))
        return {
            "occupancy": tf.concat([within * p for p, _ in answers], -1),
            "inside": within,
            "normals": normals(lambda x: self.query(features[-1], x, calib)[0], normal_points, self.delta),
        }, answers[-1][1]

    def call(self, images, points, calib, normal_points, training=False):
        return self.level(self.maps(images)[0], points, calib, normal_points)[0]


@keras.saving.register_keras_serializable("diptych")
class PIFuHD(Model):
    """Both levels; the fine level's losses do not train the coarse one.

    Args:
        netG: the coarse level.
        num_stack, hg_depth, hg_dim, base, groups: of the features of the large image, see :class:`HGFilter`.
        mlp_dim, res_layers: see :class:`MLP`.
        load_size_big: size of the large image, pixels.
        delta: step of the differences for normals.

    Inputs: ``images_global`` (N, H, W, 3) float in [-1, 1], multiples of 16; ``images_local`` (N, h, w, 3), a window of
        the large image; ``corners`` (N, 2) int64, x and y of its first pixel; ``points`` (N, P, 3) and
        ``normal_points`` (N, M, 3) in space; ``calib_global`` and ``calib_local`` (N, 4, 4), from space to the cubes of
        the image and of the window.
    Returns: dict of both levels, as of :class:`PIFu`: ``"occupancy"``, ``"inside"`` (depth does not count),
        ``"normals"``; ``"coarse_occupancy"``, ``"coarse_inside"``, ``"coarse_normals"``.
    """

    def __init__(
        self,
        netG,
        num_stack: int = 1,
        hg_depth: int = 2,
        hg_dim: int = 16,
        mlp_dim: tuple[int, ...] = (272, 512, 256, 128, 1),
        res_layers: tuple[int, ...] = (1, 2),
        load_size_big: int = 1024,
        base: int = 64,
        groups: int = 32,
        delta: float = 0.001,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.load_size_big, self.delta = load_size_big, delta
        self.image_filter = HGFilter(num_stack, hg_depth, hg_dim, False, base, groups)
        self.mlp = MLP(mlp_dim, res_layers)
        self.netG = netG

    def window(self, images, corners, size: tuple[int, int]):
        """Cut one window out of every image.  (N, H, W, C), (N, 2) -> (N, *size, C)."""
        rows, columns = (tf.range(n, dtype=corners.dtype) for n in size)
        places = (corners[:, 1:] + rows)[:, :, None] * images.shape[2] + (corners[:, :1] + columns)[:, None]
        pixels = tf.reshape(images, (-1, images.shape[1] * images.shape[2], images.shape[3]))
        return tf.gather(pixels, places, batch_dims=1)

    def query(self, features, inner, points, calib):
        """Probabilities (N, P, 1) of points, from one map and the coarse level's inner features."""
        return self.mlp(tf.concat((sample(features, project(points, calib)), tf.stop_gradient(inner)), -1))[0]

    def call(
        self, images_global, images_local, corners, points, calib_global, calib_local, normal_points, training=False
    ):
        maps, sides = self.netG.maps(images_global)
        coarse, inner = self.netG.level(maps, points, calib_global, normal_points)
        sides = resize_bilinear(sides, (self.load_size_big, self.load_size_big), align_corners=True)
        sides = self.window(sides, corners, map_size(images_local))
        features = self.image_filter(tf.concat((images_local, sides), -1))
        within = inside(project(points, calib_local)[..., :2])

        def field(x):
            return self.query(features[-1], self.netG.query(maps[-1], x, calib_global)[1], x, calib_local)

        return {
            "occupancy": tf.concat([within * self.query(x, inner, points, calib_local) for x in features], -1),
            "inside": within,
            "normals": normals(field, normal_points, self.delta),
            **{f"coarse_{name}": x for name, x in coarse.items()},
        }


def extended_bce(p, labels, gamma):
    """Cross-entropy whose two halves have different weights.  p: (N, P, S), labels: (N, P, 1), gamma: (N, 1, 1)."""
    p = tf.clip_by_value(p, CLIP, 1 - CLIP)
    return -(gamma * labels * tf.math.log(p) + (1 - gamma) * (1 - labels) * tf.math.log(1 - p))


@keras.saving.register_keras_serializable("diptych")
class PIFuCriterion(keras.layers.Layer):
    """Cross-entropy of points, squared difference of normals.

    Args:
        gamma: weight of the points inside; those outside have 1 - gamma.

    Inputs: ``outputs`` of :class:`PIFu`; ``targets``: ``"labels"`` (N, P, 1), 1 inside the person;
        ``"normals"`` (N, M, 3).
    Returns: dict of scalars: ``"occ"``, ``"nml"``, ``"total"``, their sum.
    """

    def __init__(self, gamma: float = 0.7, **kwargs):
        super().__init__(**kwargs)
        self.gamma = gamma

    def call(self, outputs, targets):
        dtype = outputs["normals"].dtype
        labels, wanted = (tf.cast(targets[name], dtype) for name in ("labels", "normals"))
        points = extended_bce(outputs["occupancy"], outputs["inside"] * labels, self.gamma)
        difference = tf.square(outputs["normals"] - wanted)
        losses = {"occ": tf.reduce_mean(points), "nml": tf.reduce_mean(difference)}
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class PIFuHDCriterion(PIFuCriterion):
    """The losses of both levels; the fine one ignores points outside the window.

    Args:
        gamma: see :class:`PIFuCriterion`, of the coarse level; the fine one uses the share of points that are outside.

    Inputs: ``outputs`` of :class:`PIFuHD`; ``targets`` of :class:`PIFuCriterion`.
    Returns: dict of scalars: ``"occ"``, ``"nml"`` of the coarse level, ``"occ_fine"``, ``"nml_fine"``, ``"total"``,
        their sum.
    """

    def call(self, outputs, targets):
        prefix = "coarse_"
        coarse = {name.removeprefix(prefix): x for name, x in outputs.items() if name.startswith(prefix)}
        losses = super().call(coarse, targets)
        total = losses.pop("total")
        dtype = outputs["normals"].dtype
        labels, wanted = (tf.cast(targets[name], dtype) for name in ("labels", "normals"))
        within = outputs["inside"]
        labels, count = within * labels, tf.reduce_sum(within, 1, keepdims=True)
        count = tf.where(count > 0, count, tf.ones_like(count))
        gamma = 1 - tf.reduce_sum(labels, 1, keepdims=True) / count
        points = extended_bce(outputs["occupancy"], labels, gamma)
        losses["occ_fine"] = tf.reduce_mean(points * within.shape[1] / count)
        losses["nml_fine"] = tf.reduce_mean(tf.square(outputs["normals"] - wanted))
        return {**losses, "total": total + losses["occ_fine"] + losses["nml_fine"]}


@keras.saving.register_keras_serializable("diptych")
class PIFuHDPostProcess(keras.layers.Layer):
    """The results of the last stacks.

    Inputs: ``outputs`` of :class:`PIFuHD`.
    Returns: dict: ``"occupancy"``, ``"coarse_occupancy"`` (N, P, 1) probabilities; ``"colors"`` (N, M, 3) in [0, 1],
        the normals as colours.
    """

    def call(self, outputs):
        found = {name: outputs[name][..., -1:] for name in ("occupancy", "coarse_occupancy")}
        return {**found, "colors": outputs["normals"] / 2 + 0.5}


def pifuhd_coarse(**options) -> PIFu:
    return PIFu(**options)


def pifuhd(
    num_stack: int = 1,
    hg_depth: int = 2,
    hg_dim: int = 16,
    mlp_dim: tuple[int, ...] = (272, 512, 256, 128, 1),
    res_layers: tuple[int, ...] = (1, 2),
    load_size_big: int = 1024,
    base: int = 64,
    groups: int = 32,
    delta: float = 0.001,
    coarse: dict | None = None,
) -> PIFuHD:
    netG = PIFu(base=base, groups=groups, **(coarse or {}))
    return PIFuHD(netG, num_stack, hg_depth, hg_dim, mlp_dim, res_layers, load_size_big, base, groups, delta)
