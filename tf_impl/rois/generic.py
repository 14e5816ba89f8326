"""Features of boxes from all levels at once, mixed by a convolution and by attention.

"A Novel Region of Interest Extraction Layer for Instance Segmentation", 2020, arXiv:2004.13665.
Names: mmdet ``roi_extractors/generic_roi_extractor.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the widths of the maps.
"""

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.generalized_attention import GeneralizedAttention
from tf_impl.layers.roi_align import roi_align
from tf_impl.rois.extractors import image_index

__all__ = ["GenericRoIExtractor", "SquareAttention"]


@keras.saving.register_keras_serializable("diptych")
class SquareAttention(GeneralizedAttention):
    """:class:`GeneralizedAttention` by query and relative position, of square maps, as the reference computes it.

    Its vertical part uses the query with height and width exchanged, as its checkpoints were trained.

    Args:
        num_heads, kv_stride: as there.

    x: (N, B, B, C), the same shape out.
    Source: mmcv ``cnn/bricks/generalized_attention.py`` (Apache-2.0).
    """

    def __init__(self, num_heads: int = 6, kv_stride: int = 2, **kwargs):
        super().__init__(num_heads=num_heads, kv_stride=kv_stride, attention_type="0100", **kwargs)

    def call(self, x):
        of_key = x[:, :: self.kv_stride, :: self.kv_stride]
        size, keys = x.shape[2], of_key.shape[2]
        asked = self.split(self.query_conv(x))
        asked = tf.reshape(asked, (-1, self.num_heads, self.head_dim, size, size))
        asked = tf.transpose(asked, (0, 1, 4, 3, 2))  # (N, M, w, h, e)
        along_x = self.relative(self.appr_geom_fc_x, size, keys)  # (M, size, e, keys)
        along_y = self.relative(self.appr_geom_fc_y, size, keys)
        energy_x = tf.transpose(tf.matmul(asked, along_x), (0, 1, 3, 2, 4))  # (N, M, h, w, keys)
        energy_y = tf.matmul(asked, along_y)  # height and width exchanged
        energy = tf.expand_dims(energy_x, 4) + tf.expand_dims(energy_y, 5)
        energy = tf.reshape(energy, (-1, self.num_heads, size**2, keys**2))
        y = tf.matmul(self.split(self.value_conv(of_key)), tf.nn.softmax(energy), transpose_b=True)
        y = tf.reshape(y, (-1, self.num_heads * self.head_dim, size, size))
        return tf.convert_to_tensor(self.gamma) * self.proj_conv(tf.transpose(y, (0, 2, 3, 1))) + x


@keras.saving.register_keras_serializable("diptych")
class GenericRoIExtractor(keras.layers.Layer):
    """RoIAlign on all levels, a convolution of each, their sum, attention.

    Args:
        filters: channels C of the levels.
        output_size: bins of a box in each direction, B.
        num_heads: of the attention.
        levels: names of the maps, fine to coarse.

    Inputs: dict of maps (N, H, W, C), of stride 4 for "p2" and so on; boxes (N, R, 4) xyxy in pixels.
    Returns: (N * R, B, B, C).
    """

    def __init__(
        self,
        filters: int,
        output_size: int,
        num_heads: int = 6,
        levels: tuple[str, ...] = ("p2", "p3", "p4", "p5"),
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.output_size, self.levels = output_size, tuple(levels)
        self.post_module = SquareAttention(num_heads)  # mirror: infers the widths
        self.pre_module = ConvModule(filters, 5, padding=2)

    def call(self, maps, boxes):
        image, rows = image_index(boxes), tf.reshape(tf.stop_gradient(boxes), (-1, 4))
        found = 0
        for name in self.levels:
            features = tf.cast(maps[name], rows.dtype)
            x = roi_align(features, rows, image, self.output_size, 1 / 2 ** int(name[1:]), 2, True)  # mirror: NHWC
            found = found + self.pre_module(x)
        return self.post_module(found)
