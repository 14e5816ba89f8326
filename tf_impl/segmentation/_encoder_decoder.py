"""Common parts of the segmenters on a backbone: the composition, the plain convolutional head, the dilated ResNets.

Names: mmsegmentation ``models/segmentors/encoder_decoder.py``, ``decode_heads/fcn_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet, deep_convs
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model

__all__ = ["DecodeHead", "EncoderDecoder", "FCNHead", "ResNetV1c", "auxiliary_head", "conv_bn", "dilated_resnet"]

conv_bn = functools.partial(ConvModule, norm="batch")


@keras.saving.register_keras_serializable("diptych")
class UndilatedBasicBlock(BasicBlock):
    """A basic block whose second convolution is never dilated, as in mmsegmentation."""

    def __init__(self, planes: int, strides: int = 1, dilation_rate: int = 1, first_dilation: int = 1, **options):
        super().__init__(planes, strides, 1, first_dilation, **options)


BLOCKS = {18: (UndilatedBasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3))}


@keras.saving.register_keras_serializable("diptych")
class ResNetV1c(ResNet):
    """The maps of a ResNet-C, with mmsegmentation's names: all of the stem is one list of layers."""

    def __init__(self, block, layers: tuple[int, ...], deep_stem: tuple[int, int, int] = (32, 32, 64), **options):
        super().__init__(block, layers, deep_stem=deep_stem, features_only=True, **options)

    def make_stem(self, filters: int, deep_stem, norm) -> None:
        self.stem = keras.Sequential([*deep_convs(deep_stem, norm), norm(), keras.layers.ReLU()])

    def levels(self) -> list:
        return [[self.stem], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_stem(self, images, training=False):
        return self.maxpool(self.stem(images, training=training))


def dilated_resnet(depth: int = 50, output_stride: int = 8, width: int = 64, layers=None, **options) -> ResNetV1c:
    """The backbone of most segmenters.

    Args:
        depth: 18, 50 or 101.
        output_stride: 8 or 16 (dilated last stages), or 32.
        width: nominal channels of the first stage.
        layers: blocks of each stage, instead of the depth's.
        options: of :class:`ResNet`.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth} must be one of {sorted(BLOCKS)}")
    block, published = BLOCKS[depth]
    return ResNetV1c(
        block,
        layers or published,
        deep_stem=(width // 2, width // 2, width),
        planes=(width, 2 * width, 4 * width, 8 * width),
        output_stride=output_stride,
        zero_init_residual=True,
        **options,
    )


@keras.saving.register_keras_serializable("diptych")
class DecodeHead(keras.layers.Layer):
    """The last layers of every head: dropout of whole channels, and a 1x1 convolution to the classes.

    Args:
        num_classes: classes K.
        dropout: rate.
    """

    def __init__(self, num_classes: int = 19, dropout: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.dropout = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, None))  # mirror: whole channels
        normal = keras.initializers.RandomNormal(stddev=0.01)
        self.conv_seg = Conv2D(num_classes, 1, kernel_initializer=normal, bias_initializer="zeros")

    def classify(self, x, training=False):
        """(N, H, W, C) -> logits (N, H, W, K)."""
        return self.conv_seg(self.dropout(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class FCNHead(DecodeHead):
    """Convolutions on one map; the map itself is added to their result before the last one.

    Args:
        filters: of the convolutions.
        num_classes, dropout: see :class:`DecodeHead`.
        in_map: name of the map.
        num_convs: convolutions; 0 classifies the map directly.
        kernel_size: of the convolutions.
        concat_input: whether the map is appended to the result and a further convolution follows.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        in_map: str = "c5",
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.in_map, padding = in_map, kernel_size // 2
        self.convs = [conv_bn(filters, kernel_size, padding=padding) for _ in range(num_convs)]
        self.conv_cat = conv_bn(filters, kernel_size, padding=padding) if concat_input else None

    def between(self, x, training=False):
        """The layers between the first convolution and the second."""
        return x

    def call(self, maps, training=False):
        x = y = maps[self.in_map]
        for i, conv in enumerate(self.convs):
            y = conv(y, training=training)
            y = self.between(y, training) if i == 0 else y
        if self.conv_cat is not None:
            y = self.conv_cat(tf.concat((x, y), -1), training=training)
        return self.classify(y, training)


@keras.saving.register_keras_serializable("diptych")
class EncoderDecoder(Model):
    """Backbone, head, and a second head on an earlier map for training.

    Args:
        backbone: returns its maps by name.
        decode_head: makes logits (N, H', W', K) from the maps, or a dict with ``"logits"``.
        auxiliary_head: also makes logits, or is None.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: the head's result, ``"logits"`` if it is a tensor; ``"aux_logits"`` of the auxiliary head.
    """

    def __init__(self, backbone, decode_head, auxiliary_head=None, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.decode_head = backbone, decode_head
        self.auxiliary_head = auxiliary_head

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        outputs = self.decode_head(maps, training=training)
        outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
        if self.auxiliary_head is not None:
            outputs = {**outputs, "aux_logits": self.auxiliary_head(maps, training=training)}
        return outputs


def auxiliary_head(backbone, num_classes: int = 19, filters: int = 256, dropout: float = 0.1) -> FCNHead:
    """The usual second head: one convolution on the map ``"c4"``."""
    return FCNHead(filters, num_classes, dropout, "c4", num_convs=1, concat_input=False)
