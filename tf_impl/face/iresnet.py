"""IResNet: the residual network of ArcFace, with a normalisation before each convolution and large maps at the end.

"ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2018, arXiv:1801.07698, section 3.2.2. Parameter
names: deepinsight/insightface ``recognition/arcface_torch/backbones/iresnet.py`` (MIT; its weights are for research
only). What to look at: the first stage halves the map as well, the stride is in the second convolution of a block,
there is no activation after the addition, and the embedding comes from all 7x7 cells, not from their mean.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- The last map is flattened as (C, H, W) in both.
- The scale of the last normalisation stays at one: a non-trainable variable here, no gradient in PyTorch.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.prelu import PReLU
from tf_impl.metric.arcface import ArcFaceCriterion

__all__ = [
    "ArcFaceCriterion",
    "IBasicBlock",
    "IResNet",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "iresnet200",
]


@keras.saving.register_keras_serializable("diptych")
class IResNetNormal(keras.initializers.RandomNormal):
    """Normal with deviation 0.1."""

    def __init__(self, seed=None):
        super().__init__(stddev=0.1, seed=seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=IResNetNormal)


@keras.saving.register_keras_serializable("diptych")
class IBasicBlock(keras.layers.Layer):
    """Normalisation, 3x3 convolution, normalisation, PReLU, 3x3 convolution, normalisation, and a shortcut.

    Args:
        filters: width of the result.
        strides: of the second convolution.
        project: whether the shortcut is a convolution.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, strides: int = 1, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.bn1 = BatchNormalization()
        self.conv1, self.bn2 = CONV(filters, 3, padding=1), BatchNormalization()
        self.prelu = PReLU(filters)
        self.conv2, self.bn3 = CONV(filters, 3, strides=strides, padding=1), BatchNormalization()
        self.downsample = None
        if project:
            self.downsample = keras.Sequential([CONV(filters, 1, strides=strides), BatchNormalization()])

    def call(self, x, training=False):
        y = self.bn2(self.conv1(self.bn1(x, training=training)), training=training)
        y = self.bn3(self.conv2(self.prelu(y)), training=training)
        return y + (x if self.downsample is None else self.downsample(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class FixedScale(BatchNormalization):
    """Batch normalisation without a learnt scale.  (N, C) -> (N, C)."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gamma.trainable = False  # mirror: stays at one


@keras.saving.register_keras_serializable("diptych")
class IResNet(Model):
    """The network from an aligned face to its embedding.

    Args:
        layers: blocks of the four stages.
        planes: their widths.
        num_features: length D of the embedding.
        size: size of the images.
        dropout: rate before the last layer.

    Inputs: (N, size, size, 3) float, RGB / 127.5 - 1, aligned.
    Returns: (N, D), not normalised; faces are compared by the cosine.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 14, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_features: int = 512,
        size: int = 112,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, size, size, 3))
        self.conv1, self.bn1, self.prelu = CONV(planes[0], 3, padding=1), BatchNormalization(), PReLU(planes[0])
        for i, (count, filters) in enumerate(zip(layers, planes, strict=True), start=1):
            blocks = [IBasicBlock(filters, 2, True), *(IBasicBlock(filters) for _ in range(count - 1))]
            setattr(self, f"layer{i}", keras.Sequential(blocks))
        self.bn2 = BatchNormalization()
        self.dropout = keras.layers.Dropout(dropout)
        self.fc = Dense(num_features)
        self.features = FixedScale()

    def call(self, images, training=False):
        x = self.prelu(self.bn1(self.conv1(images), training=training))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x, training=training)
        x = tf.transpose(self.bn2(x, training=training), (0, 3, 1, 2))  # mirror: NHWC
        x = tf.reshape(x, (-1, x.shape[1] * x.shape[2] * x.shape[3]))  # mirror: flattened
        return self.features(self.fc(self.dropout(x, training=training)), training=training)


def iresnet18(layers=(2, 2, 2, 2), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet34(layers=(3, 4, 6, 3), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet50(layers=(3, 4, 14, 3), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet100(layers=(3, 13, 30, 3), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet200(layers=(6, 26, 60, 6), **options) -> IResNet:
    return IResNet(layers, **options)
