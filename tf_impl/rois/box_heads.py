"""Classes and boxes from the features of boxes, under the names of torchvision and of mmdet.

Names: torchvision ``detection/faster_rcnn.py`` (BSD-3); mmdet ``bbox_heads/convfc_bbox_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch: the input of the first linear layer is transposed, because its weights are for NCHW.
- Initial values are given to the layers in Keras, filled in afterwards in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense

__all__ = ["ConvFCBBoxHead", "FastRCNNPredictor", "TwoMLPHead"]


def box_rows(x):
    """(R, B, B, C) -> (R, C * B * B), the channels outermost."""
    _, height, width, channels = x.shape
    return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, channels * height * width))  # mirror: transposed


@keras.saving.register_keras_serializable("diptych")
class TwoMLPHead(keras.layers.Layer):
    """Two linear layers with ReLU (torchvision).

    Args:
        units: width of both layers.

    x: (R, 7, 7, C) -> (R, units).
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.fc6 = Dense(units, activation="relu")
        self.fc7 = Dense(units, activation="relu")

    def call(self, x):
        return self.fc7(self.fc6(box_rows(x)))


@keras.saving.register_keras_serializable("diptych")
class FastRCNNPredictor(keras.layers.Layer):
    """Class logits and box deltas, background included (torchvision).

    Args:
        num_classes: classes K, background included.

    x: (R, D) -> (R, K), (R, K * 4).
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.cls_score = Dense(num_classes)
        self.bbox_pred = Dense(num_classes * 4)

    def call(self, x):
        return self.cls_score(x), self.bbox_pred(x)


@keras.saving.register_keras_serializable("diptych")
class ConvFCBBoxHead(keras.layers.Layer):
    """3x3 convolutions, linear layers with ReLU, class logits and box deltas (mmdet).

    Args:
        num_classes: classes K; the background is one more logit, the last.
        num_convs, conv_filters: number and width of the convolutions.
        num_fcs: linear layers, at least one.
        units: their width.
        class_agnostic: four deltas for a box instead of four for each class.
        norm, norm_groups, conv: of the convolutions, see :class:`ConvModule`.

    x: (R, 7, 7, C) -> (R, K + 1), (R, 4 * K) or (R, 4).
    """

    def __init__(
        self,
        num_classes: int,
        num_convs: int = 0,
        conv_filters: int = 256,
        num_fcs: int = 2,
        units: int = 1024,
        class_agnostic: bool = False,
        norm=None,
        norm_groups: int = 32,
        conv=Conv2D,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # mirror: given to the layers
        initial = [keras.initializers.RandomNormal(stddev=std) for std in (0.01, 0.001)]
        self.fc_cls = Dense(num_classes + 1, kernel_initializer=initial[0], bias_initializer="zeros")
        self.fc_reg = Dense(
            4 if class_agnostic else 4 * num_classes, kernel_initializer=initial[1], bias_initializer="zeros"
        )
        self.shared_convs = [
            ConvModule(conv_filters, 3, padding=1, norm=norm, norm_groups=norm_groups, conv=conv)
            for _ in range(num_convs)
        ]
        self.shared_fcs = [
            Dense(units, activation="relu", kernel_initializer="glorot_uniform", bias_initializer="zeros")
            for _ in range(num_fcs)
        ]

    def features(self, x):
        """(R, 7, 7, C) -> (R, units)."""
        for conv in self.shared_convs:
            x = conv(x)
        x = box_rows(x)
        for layer in self.shared_fcs:
            x = layer(x)
        return x

    def call(self, x):
        x = self.features(x)
        return self.fc_cls(x), self.fc_reg(x)
