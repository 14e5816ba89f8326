"""SegNet: VGG-16 without its classifier, and its mirror image; maps are unpooled by putting values back where they
were.

"SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation", 2015, arXiv:1511.00561.
Layer names: the authors' prototxt files (alexgkendall/SegNet-Tutorial, CC BY-NC 4.0; names and shapes alone).
What to look at: an odd map is pooled with its last row and column alone, and is unpooled to its original size.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Only dropout in training mode: a module's mode in PyTorch, a flag of the model here.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.max_unpool import max_pool2d_with_indices, max_unpool2d
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = [
    "SegNet",
    "SegNetBasic",
    "SegNetCriterion",
    "SegmentationPostProcess",
    "bayesian_segnet_vgg16",
    "pool",
    "segnet_basic",
    "segnet_vgg16",
    "uncertainty",
    "unpool",
]


DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage of VGG-16


def pool(x):
    """Max pooling by 2, rounded up, and its indices.

    x: (N, H, W, C) -> two of (N, ceil(H / 2), ceil(W / 2), C).
    """
    height, width = map_size(x)
    x = tf.pad(x, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]], constant_values=tf.float16.min)
    return max_pool2d_with_indices(x, 2)


def unpool(x, indices, size: tuple[int, int]):
    """Values put back where they were.  (N, h, w, C) -> (N, H, W, C)."""
    height, width = size
    x = max_unpool2d(x, indices, 2, output_size=(height + height % 2, width + width % 2))
    return x[:, :height, :width]


@keras.saving.register_keras_serializable("diptych")
class SegNet(Model):
    """The network on VGG-16 (section 3).

    Args:
        num_classes: classes K.
        widths: channels of the five stages.
        dropout: rate in the deep stages; Bayesian SegNet has 0.5 (arXiv:1511.02680), see :func:`uncertainty`.

    Inputs: (N, H, W, 3) float, BGR in [0, 255].
    Returns: dict: ``"logits"`` (N, H, W, K).
    """

    def __init__(
        self,
        num_classes: int = 11,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.dropout, self.sampling = keras.layers.Dropout(dropout), False
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
            for i in range(1, depth + 1):
                self.add_layer(f"conv{stage}_{i}", width)
        for stage in range(5, 0, -1):
            for i in range(DEPTHS[stage - 1], 0, -1):
                last = stage == 1 and i == 1
                width = num_classes if last else widths[stage - 1] if i > 1 else widths[stage - 2]
                self.add_layer(f"conv{stage}_{i}_D", width, norm=not last)

    def add_layer(self, name: str, filters: int, norm: bool = True) -> None:
        """A 3x3 convolution and its normalisation."""
        he = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
        setattr(self, name, Conv2D(filters, 3, padding=1, kernel_initializer=he, bias_initializer="zeros"))
        if norm:
            setattr(self, f"{name}_bn", BatchNormalization())

    def layer(self, name: str, x, training=False):
        """Convolution, normalisation and ReLU by name."""
        return tf.nn.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x), training=training))

    def call(self, images, training=False):
        x, pooled = images, []
        for stage, depth in enumerate(DEPTHS, start=1):
            for i in range(1, depth + 1):
                x = self.layer(f"conv{stage}_{i}", x, training)
            size = map_size(x)
            x, indices = pool(x)
            pooled.append((indices, size))
            x = self.dropout(x, training=training or self.sampling) if stage >= 3 else x
        for stage in range(5, 0, -1):
            x = unpool(x, *pooled[stage - 1])
            for i in range(DEPTHS[stage - 1], 0, -1):
                name = f"conv{stage}_{i}_D"
                x = self.conv1_1_D(x) if name == "conv1_1_D" else self.layer(name, x, training)
            x = self.dropout(x, training=training or self.sampling) if stage >= 3 else x
        return {"logits": x}


@keras.saving.register_keras_serializable("diptych")
class SegNetBasic(Model):
    """The small network: four stages of one 7x7 convolution; the decoder has no ReLU.

    Args:
        num_classes: classes K.
        width: channels of every stage.

    Inputs: (N, H, W, 3) float, BGR in [0, 255].
    Returns: dict: ``"logits"`` (N, H, W, K).
    """

    def __init__(self, num_classes: int = 11, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        for i in range(1, 5):
            setattr(self, f"conv{i}", Conv2D(width, 7, padding=3))
            setattr(self, f"conv{i}_bn", BatchNormalization())
        for i in range(4, 0, -1):
            setattr(self, f"conv_decode{i}", Conv2D(width, 7, padding=3))
            setattr(self, f"conv_decode{i}_bn", BatchNormalization())
        self.conv_classifier = Conv2D(num_classes, 1)

    def norm(self, x):
        """Local response normalisation over the 3 channels, which all lie in one window of 5."""
        return x / (1 + 1e-4 * tf.reduce_sum(tf.square(x), -1, keepdims=True) / 5) ** 0.75

    def call(self, images, training=False):
        x, pooled = self.norm(images), []
        for i in range(1, 5):
            x = tf.nn.relu(getattr(self, f"conv{i}_bn")(getattr(self, f"conv{i}")(x), training=training))
            size = map_size(x)
            x, indices = pool(x)
            pooled.append((indices, size))
        for i in range(4, 0, -1):
            x = unpool(x, *pooled[i - 1])
            x = getattr(self, f"conv_decode{i}_bn")(getattr(self, f"conv_decode{i}")(x), training=training)
        return {"logits": self.conv_classifier(x)}


@keras.saving.register_keras_serializable("diptych")
class SegNetCriterion(SegmentationCriterion):
    """Cross-entropy, with weights of the classes by their frequency (section 3.2).

    Args:
        ignore_index: label of pixels that do not count.
        class_weight: K weights, or None.

    Inputs and returns: as for :class:`SegmentationCriterion`; the one term is ``"ce"``.
    """

    def __init__(self, ignore_index: int = 11, class_weight=None, **kwargs):
        super().__init__((("ce", "logits", 1.0),), ignore_index, class_weight, avg_non_ignore=True, **kwargs)


def uncertainty(model: SegNet, images, samples: int = 40):
    """Mean and variance of a network's predictions under dropout.

    Args:
        model: with dropout; its mode is restored afterwards.
        images: (N, H, W, 3).
        samples: forward passes with different dropout and running statistics.

    Returns:
        probabilities: (N, H, W, K), the mean of all samples.
        variance: (N, H, W), of the samples' probabilities, the mean over all classes.

    Source: "Bayesian SegNet", 2015, arXiv:1511.02680, section 4.
    """
    model.sampling = True  # mirror: a flag
    found = tf.stack([tf.nn.softmax(model(images)["logits"]) for _ in range(samples)])
    model.sampling = False
    return tf.reduce_mean(found, 0), tf.reduce_mean(tf.math.reduce_variance(found, 0), -1)


def segnet_vgg16(**options) -> SegNet:
    return SegNet(**options)


def bayesian_segnet_vgg16(dropout: float = 0.5, **options) -> SegNet:
    return SegNet(dropout=dropout, **options)


def segnet_basic(**options) -> SegNetBasic:
    return SegNetBasic(**options)
