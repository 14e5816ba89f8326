"""Common parts of the trackers with deep layer aggregation: the trunk with stems for the previous frame, upsampling,
heads.

Names: xingyizhou/CenterTrack ``model/networks/dla.py``, ifzhang/FairMOT ``models/networks/pose_dla_dcn.py`` (MIT).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.classification.dla import DLATree, conv_bn
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.necks.dla_up import DLAUp, IDAUp

__all__ = ["DLASeg", "DLATrunk", "gathered_l1", "gathered_rows"]


@keras.saving.register_keras_serializable("diptych")
class DLATrunk(keras.layers.Layer):
    """Deep layer aggregation without a classifier.

    Args:
        depths, widths: see ``DLA``.
        previous: whether there are stems for the previous frame and for a heat map of its objects.

    images, previous: (N, H, W, 3), heat: (N, H, W, 1); the last two may be None -> list of six maps of strides 1 to 32.
    """

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], previous: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.base_layer = keras.Sequential([*conv_bn(widths[0], 7), keras.layers.ReLU()])
        channels = widths[0]
        for i in range(2):
            layers = []
            for j in range(depths[i]):
                layers += [*conv_bn(widths[i], 3, 1 if i == 0 or j else 2), keras.layers.ReLU()]
                channels = widths[i]
            setattr(self, f"level{i}", keras.Sequential(layers))
        for i in range(2, 6):
            setattr(self, f"level{i}", DLATree(depths[i], channels, widths[i], 2, level_root=i > 2))
            channels = widths[i]
        self.pre_img_layer = self.pre_hm_layer = None
        if previous:
            self.pre_img_layer = keras.Sequential([*conv_bn(widths[0], 7), keras.layers.ReLU()])
            self.pre_hm_layer = keras.Sequential([*conv_bn(widths[0], 7), keras.layers.ReLU()])

    def call(self, images, previous=None, heat=None, training=False):
        x, maps = self.base_layer(images, training=training), []
        if previous is not None:
            x = x + self.pre_img_layer(previous, training=training)
        if heat is not None:
            x = x + self.pre_hm_layer(heat, training=training)
        for i in range(6):
            x = getattr(self, f"level{i}")(x, training=training)
            maps.append(x)
        return maps


@keras.saving.register_keras_serializable("diptych")
class DLASeg(Model):
    """Trunk, upsampling, and a head per output.

    Args:
        heads: channels by name.
        depths, widths, previous: of the trunk.
        hidden: width of the heads' first convolution.
        prior_bias: of the heat map's logits before training.

    images, previous, heat: see :class:`DLATrunk` -> dict of maps of stride 4 by name.
    """

    def __init__(
        self,
        heads: dict[str, int],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        previous: bool = False,
        hidden: int = 256,
        prior_bias: float = -2.19,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.names = tuple(heads)
        self.base = DLATrunk(depths, widths, previous)
        self.dla_up = DLAUp(widths[2:])
        self.ida_up = IDAUp(widths[2], (1, 2, 4))
        for name, filters in heads.items():
            first, last = (None, keras.initializers.Constant(prior_bias)) if name == "hm" else ("zeros", "zeros")
            layers = [Conv2D(hidden, 3, padding=1, bias_initializer=first), keras.layers.ReLU()]
            setattr(self, name, keras.Sequential([*layers, Conv2D(filters, 1, bias_initializer=last)]))

    def answers(self, images, previous=None, heat=None, training=False) -> dict:
        """The outputs of the heads by name."""
        maps = self.base(images, previous, heat, training=training)
        maps = self.dla_up(maps[2:], training=training)
        x = self.ida_up(maps[:3], training=training)[-1]
        return {name: getattr(self, name)(x) for name in self.names}


def gathered_rows(x, index):
    """The feature vectors of a map at cells.  (N, H, W, C), (N, M) int64 row by row -> (N, M, C)."""
    return take_rows(map_rows(x), index)


def gathered_l1(x, index, wanted, mask):
    """Mean absolute difference at cells, over the values that count.

    Args:
        x: (N, H, W, C).
        index: (N, M) int64 cells, row by row.
        wanted: (N, M, C).
        mask: (N, M), 1 for those that count.
    """
    mask = tf.cast(mask, x.dtype)
    difference = tf.reduce_sum(tf.abs(gathered_rows(x, index) - tf.cast(wanted, x.dtype)), -1)
    return tf.reduce_sum(difference * mask) / (x.shape[3] * tf.reduce_sum(mask) + 1e-4)
