"""The hourglass network with 104 layers for corners, extreme points or centres of objects.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244, section 3.4.
Parameter names: princeton-vl/CornerNet ``models/py_utils/kp.py`` (BSD-3), which ExtremeNet and CenterNet share. It
downsamples by strides, not by pooling, and has a residual unit where the hourglass for poses has a bottleneck.

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the input widths; a unit is told whether its shortcut needs a convolution.
- The names of two lists end with an underscore, which here marks names that Keras reserves: so their layers are
  attributes with the whole name, index included; in PyTorch they are lists.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size, resize_nearest

__all__ = ["Convolution", "HourglassTrunk", "KeypointModule", "Residual", "maps_of_stacks", "predictions"]

DIMS = (256, 256, 384, 384, 384, 512)
MODULES = (2, 2, 2, 2, 2, 4)
PRIOR_BIAS = -2.19  # logit of a heat map before training: probability 0.1


@keras.saving.register_keras_serializable("diptych")
class Convolution(keras.layers.Layer):
    """Convolution, normalisation, ReLU.

    Args:
        filters, kernel_size, strides: of the convolution.
        with_bn: whether there is a normalisation; if not, the convolution has a bias.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, kernel_size: int, strides: int = 1, with_bn: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv2D(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=not with_bn)
        self.bn = BatchNormalization() if with_bn else None

    def call(self, x, training=False):
        x = self.conv(x)
        return tf.nn.relu(x if self.bn is None else self.bn(x, training=training))


def projection(filters: int, strides: int = 1) -> keras.Sequential:
    """1x1 convolution and normalisation."""
    return keras.Sequential([Conv2D(filters, 1, strides=strides, use_bias=False), BatchNormalization()])


@keras.saving.register_keras_serializable("diptych")
class Residual(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut.

    Args:
        filters, strides: of the first convolution.
        project: whether the shortcut has a convolution; required where the shape changes.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, strides: int = 1, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = Conv2D(filters, 3, strides=strides, padding=1, use_bias=False)
        self.bn1 = BatchNormalization()
        self.conv2 = Conv2D(filters, 3, padding=1, use_bias=False)
        self.bn2 = BatchNormalization()
        self.skip = projection(filters, strides) if project else None

    def call(self, x, training=False):
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        return tf.nn.relu(y + (x if self.skip is None else self.skip(x, training=training)))


def units(in_channels: int, filters: int, count: int, strides: int = 1) -> keras.Sequential:
    """Residual units, the first of which has the stride and changes the width."""
    first = Residual(filters, strides, strides != 1 or in_channels != filters)
    return keras.Sequential([first, *(Residual(filters) for _ in range(count - 1))])


@keras.saving.register_keras_serializable("diptych")
class KeypointModule(keras.layers.Layer):
    """One hourglass: a branch at full size, and one at half size, which may be an hourglass again.

    Args:
        dims: widths, from this size to the smallest.
        modules: residual units at each size.

    x: (N, H, W, dims[0]), the same shape out.
    """

    def __init__(self, dims: tuple[int, ...], modules: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        self.up1 = units(dims[0], dims[0], modules[0])
        self.low1 = units(dims[0], dims[1], modules[0], 2)
        deeper = len(dims) > 2
        self.low2 = KeypointModule(dims[1:], modules[1:]) if deeper else units(dims[1], dims[1], modules[1])
        above = [Residual(dims[1]) for _ in range(modules[0] - 1)]
        self.low3 = keras.Sequential([*above, Residual(dims[0], project=dims[1] != dims[0])])

    def call(self, x, training=False):
        wide = self.up1(x, training=training)
        for part in (self.low1, self.low2, self.low3):
            x = part(x, training=training)
        return wide + resize_nearest(x, map_size(wide))


@keras.saving.register_keras_serializable("diptych")
class HourglassTrunk(Model):
    """The base of the detectors: a stem of stride 4 and hourglasses, each of which receives the previous one's output.

    Args:
        stacks: number of hourglasses.
        dims, modules: of each, see :class:`KeypointModule`.
        stem: width of the first convolution.
        cnv_dim: width of the output.

    ``stacked``: (N, H, W, 3) float, normalised -> list of (N, H / 4, W / 4, cnv_dim), rounded up, one per hourglass.
    """

    def __init__(
        self,
        stacks: int = 2,
        dims: tuple[int, ...] = DIMS,
        modules: tuple[int, ...] = MODULES,
        stem: int = 128,
        cnv_dim: int = 256,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        width, between = dims[0], range(stacks - 1)
        self.pre = keras.Sequential([Convolution(stem, 7, 2), Residual(width, 2, True)])
        self.kps = [KeypointModule(dims, modules) for _ in range(stacks)]
        self.cnvs = [Convolution(cnv_dim, 3) for _ in range(stacks)]
        self.inters = [Residual(width) for _ in between]
        for i in between:
            # mirror: end with an underscore
            setattr(self, f"inters_.{i}", projection(width))
            setattr(self, f"cnvs_.{i}", projection(width))

    def stacked(self, images, training=False):
        """The map of every hourglass, from an image batch."""
        x, found = self.pre(images, training=training), []
        for i, (hourglass, cnv) in enumerate(zip(self.kps, self.cnvs)):
            found.append(cnv(hourglass(x, training=training), training=training))
            if i < len(self.inters):
                inter, found_here = getattr(self, f"inters_.{i}"), getattr(self, f"cnvs_.{i}")
                x = inter(x, training=training) + found_here(found[-1], training=training)
                x = self.inters[i](tf.nn.relu(x), training=training)
        return found


def predictions(stacks: int, hidden: int, filters: int, bias: float | None = None):
    """3x3 convolution, ReLU and 1x1 convolution for every hourglass; ``bias`` is of the initial values."""
    heads = []
    for _ in range(stacks):
        initial = {} if bias is None else {"bias_initializer": keras.initializers.Constant(bias)}
        last = Conv2D(filters, 1, **initial)
        heads.append(keras.Sequential([Convolution(hidden, 3, with_bn=False), last]))
    return heads


def maps_of_stacks(found: dict) -> dict:
    """Lists of maps by key -> the maps by ``key_0``, ``key_1``, ..., and by ``key`` the last one."""
    named = {}
    for key, maps in found.items():
        named |= {f"{key}_{i}": x for i, x in enumerate(maps[:-1])} | {key: maps[-1]}
    return named
