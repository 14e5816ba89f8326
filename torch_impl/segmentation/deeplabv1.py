"""DeepLab v1: VGG-16 that keeps its last maps at stride 8, by dilation instead of the last strides.

"Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", 2014, arXiv:1412.7062, the variant
with a large field of view.
Parameter names: CoinCheung/Deeplab-Large-FOV ``lib/model.py`` (Apache-2.0); ``features`` is torchvision's VGG-16.
What to look at: the former fully connected layer is a 3x3 convolution of dilation 12. The labels are sharpened on the
host by ``weights/processing/segmentation/dense_crf.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

from torch import nn

from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = ["DeepLabLargeFOV", "deeplabv1_criterion", "deeplabv1_largefov_vgg16", "deeplabv1_postprocess"]

DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage of VGG-16
STRIDES = (2, 2, 2, 1, 1)  # of the pool after each stage; the last stage is dilated instead


def scores(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv2d:
    """Convolution that keeps the size and starts as normal with variance 1 / fan_in."""
    padding = dilation * (kernel_size // 2)
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation)
    nn.init.kaiming_normal_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer


class DeepLabLargeFOV(nn.Module):
    """The network.

    Args:
        num_classes: classes K.
        widths: channels of the five stages.
        fc_width: channels of the convolutions that were fully connected.
        rate: dilation of the first of these.
        dropout: rate after the last one.

    Inputs: (N, 3, H, W) float.
    Returns: dict: ``"logits"`` (N, K, H / 8, W / 8), rounded up after each pool.
    """

    def __init__(
        self,
        num_classes: int = 21,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        fc_width: int = 1024,
        rate: int = 12,
        dropout: float = 0.5,
    ):
        super().__init__()
        layers, channels = [], 3
        for stage, (width, depth, stride) in enumerate(zip(widths, DEPTHS, STRIDES, strict=True)):
            dilation = 2 if stage == 4 else 1
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(3, stride, padding=1, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.AvgPool2d(3, 1, padding=1),
            scores(channels, fc_width, 3, rate),
            nn.ReLU(),
            scores(fc_width, fc_width, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            scores(fc_width, num_classes, 1),
        )

    def forward(self, images):
        return {"logits": self.classifier(self.features(images))}


def deeplabv1_criterion(**options) -> SegmentationCriterion:
    """Mean cross-entropy of the pixels that count, with logits at the size of the labels."""
    return SegmentationCriterion((("ce", "logits", 1.0),), avg_non_ignore=True, align_corners=True, **options)


def deeplabv1_postprocess(align_corners: bool = True) -> SegmentationPostProcess:
    """The class of every pixel, with the corners of logits and image aligned."""
    return SegmentationPostProcess(align_corners)


def deeplabv1_largefov_vgg16(**options) -> DeepLabLargeFOV:
    return DeepLabLargeFOV(**options)
