"""GCN: large kernels, each as two thin ones, score every map of a ResNet; small residual blocks sharpen the borders.

"Large Kernel Matters - Improve Semantic Segmentation by Global Convolutional Network", 2017, arXiv:1703.02719.
Parameter names: zijundeng/pytorch-semantic-segmentation ``models/gcn.py`` (MIT).
What to look at: everything is resized with aligned corners.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = [
    "GCN",
    "BoundaryRefinement",
    "GCNCriterion",
    "GlobalConvolution",
    "SegmentationPostProcess",
    "gcn_resnet50",
    "gcn_resnet152",
]


@keras.saving.register_keras_serializable("diptych")
class GlobalConvolution(keras.layers.Layer):
    """k x 1 then 1 x k, and 1 x k then k x 1, added (section 3.1).

    Args:
        filters: of the result.
        kernel_size: k, odd.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, kernel_size: int, **kwargs):
        super().__init__(**kwargs)
        k, p = kernel_size, kernel_size // 2
        self.conv_l1 = Conv2D(filters, (k, 1), padding=(p, 0))
        self.conv_l2 = Conv2D(filters, (1, k), padding=(0, p))
        self.conv_r1 = Conv2D(filters, (1, k), padding=(0, p))
        self.conv_r2 = Conv2D(filters, (k, 1), padding=(p, 0))

    def call(self, x):
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


@keras.saving.register_keras_serializable("diptych")
class BoundaryRefinement(keras.layers.Layer):
    """Two 3x3 convolutions and the map (section 3.2).  x: (N, H, W, C), the same shape out."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = Conv2D(filters, 3, padding=1)
        self.conv2 = Conv2D(filters, 3, padding=1)

    def call(self, x):
        return x + self.conv2(tf.nn.relu(self.conv1(x)))


@keras.saving.register_keras_serializable("diptych")
class GCN(Model):
    """The network (figure 2).

    Args:
        layers: blocks of the stages of the residual network.
        num_classes: classes K.
        kernel_size: of the large kernels.
        planes: nominal widths of the stages.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"logits"`` (N, H, W, K).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 21,
        kernel_size: int = 7,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        resnet = ResNet(Bottleneck, layers, planes=planes, features_only=True)
        self.layer0 = keras.Sequential([resnet.conv1, resnet.bn1, keras.layers.ReLU()])
        self.layer1 = keras.Sequential([resnet.maxpool, resnet.layer1])
        self.layer2, self.layer3, self.layer4 = resnet.layer2, resnet.layer3, resnet.layer4
        for i in range(1, 5):
            setattr(self, f"gcm{i}", GlobalConvolution(num_classes, kernel_size))
        for i in range(1, 10):
            setattr(self, f"brm{i}", BoundaryRefinement(num_classes))

    def call(self, images, training=False):
        stem = self.layer0(images, training=training)
        c2 = self.layer1(stem, training=training)
        c3 = self.layer2(c2, training=training)
        c4 = self.layer3(c3, training=training)
        c5 = self.layer4(c4, training=training)
        x = self.brm1(self.gcm1(c5))
        x = self.brm5(up(x, c4) + self.brm2(self.gcm2(c4)))
        x = self.brm6(up(x, c3) + self.brm3(self.gcm3(c3)))
        x = self.brm7(up(x, c2) + self.brm4(self.gcm4(c2)))
        return {"logits": self.brm9(up(self.brm8(up(x, stem)), images))}


def up(x, like):
    """Resize a map to the size of another, corners aligned."""
    return resize_bilinear(x, map_size(like), align_corners=True)


@keras.saving.register_keras_serializable("diptych")
class GCNCriterion(SegmentationCriterion):
    """Mean cross-entropy of the pixels that count.

    Args:
        ignore_index: label of pixels that do not.

    Inputs and returns: as for :class:`SegmentationCriterion`; the one term is ``"ce"``.
    """

    def __init__(self, ignore_index: int = 255, **kwargs):
        super().__init__((("ce", "logits", 1.0),), ignore_index, avg_non_ignore=True, **kwargs)


def gcn_resnet152(layers=(3, 8, 36, 3), **options) -> GCN:
    return GCN(layers, **options)


def gcn_resnet50(layers=(3, 4, 6, 3), **options) -> GCN:
    return GCN(layers, **options)
