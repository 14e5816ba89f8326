"""DeepLab v1: VGG-16 that keeps its last maps at stride 8, by dilation instead of the last strides.

"Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", 2014, arXiv:1412.7062, the variant
with a large field of view.
Parameter names: CoinCheung/Deeplab-Large-FOV ``lib/model.py`` (Apache-2.0); ``features`` is torchvision's VGG-16.
What to look at: the former fully connected layer is a 3x3 convolution of dilation 12. The labels are sharpened on the
host by ``weights/processing/segmentation/dense_crf.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.pooling import AveragePooling2D, MaxPooling2D
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = ["DeepLabLargeFOV", "deeplabv1_criterion", "deeplabv1_largefov_vgg16", "deeplabv1_postprocess"]

DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage of VGG-16
STRIDES = (2, 2, 2, 1, 1)  # of the pool after each stage; the last stage is dilated instead


def scores(filters: int, kernel_size: int, dilation_rate: int = 1) -> Conv2D:
    """Convolution that keeps the size and starts as normal with variance 1 / fan_in."""
    return Conv2D(
        filters,
        kernel_size,
        padding=dilation_rate * (kernel_size // 2),
        dilation_rate=dilation_rate,
        kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal"),
        bias_initializer="zeros",
    )


@keras.saving.register_keras_serializable("diptych")
class DeepLabLargeFOV(Model):
    """The network.

    Args:
        num_classes: classes K.
        widths: channels of the five stages.
        fc_width: channels of the convolutions that were fully connected.
        rate: dilation of the first of these.
        dropout: rate after the last one.

    Inputs: (N, H, W, 3) float.
    Returns: dict: ``"logits"`` (N, H / 8, W / 8, K), rounded up after each pool.
    """

    def __init__(
        self,
        num_classes: int = 21,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        fc_width: int = 1024,
        rate: int = 12,
        dropout: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        layers = []
        for stage, (width, depth, strides) in enumerate(zip(widths, DEPTHS, STRIDES, strict=True)):
            dilation = 2 if stage == 4 else 1
            for _ in range(depth):
                layers += [Conv2D(width, 3, padding=dilation, dilation_rate=dilation), keras.layers.ReLU()]
            layers.append(MaxPooling2D(3, strides, padding=1, ceil_mode=True))
        self.features = keras.Sequential(layers)
        self.classifier = keras.Sequential(
            [
                AveragePooling2D(3, 1, padding=1),
                scores(fc_width, 3, rate),
                keras.layers.ReLU(),
                scores(fc_width, 1),
                keras.layers.ReLU(),
                keras.layers.Dropout(dropout),
                scores(num_classes, 1),
            ]
        )

    def call(self, images, training=False):
        return {"logits": self.classifier(self.features(images, training=training), training=training)}


def deeplabv1_criterion(**options) -> SegmentationCriterion:
    """Mean cross-entropy of the pixels that count, with logits at the size of the labels."""
    return SegmentationCriterion((("ce", "logits", 1.0),), avg_non_ignore=True, align_corners=True, **options)


def deeplabv1_postprocess(align_corners: bool = True) -> SegmentationPostProcess:
    """The class of every pixel, with the corners of logits and image aligned."""
    return SegmentationPostProcess(align_corners)


def deeplabv1_largefov_vgg16(**options) -> DeepLabLargeFOV:
    return DeepLabLargeFOV(**options)
