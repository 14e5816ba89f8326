"""SiamFC++ on the beginning of an Inception v3 that keeps a stride of 8.

"SiamFC++: Towards Robust and Accurate Visual Tracking with Target Estimation Guidelines", 2019, arXiv:1911.06188.
Parameter names: MegviiDetection/video_analyst ``backbone_impl/googlenet.py`` (MIT). What to look at: the second pool of
the stem is gone, and the cells that padding reaches are cut off, so that an object looks the same everywhere.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import keras

from tf_impl.classification.googlenet import first_blocks, scaled
from tf_impl.classification.inception_v3 import CONV, STAGES
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.tracking.halves import SiamFCPPTemplate, SiamFCPPTrack
from tf_impl.tracking.siamfcpp import SiamFCPP, SiamFCPPCriterion, SiamFCPPPostProcess

__all__ = [
    "Inception3",
    "SiamFCPPPostProcess",
    "siamfcpp_googlenet",
    "siamfcpp_googlenet_criterion",
    "siamfcpp_googlenet_template",
    "siamfcpp_googlenet_track",
]

BORDER = 4  # cells that padding reaches


@keras.saving.register_keras_serializable("diptych", "siamfcpp_googlenet.Inception3")
class Inception3(keras.layers.Layer):
    """Stem and two stages of Inception v3, one linear layer.

    Args:
        layers: blocks of the stages, at most those of the default.
        width: multiplier of the channels of stem and blocks.
        channels: of the result.

    x: (N, H, W, 3), BGR in 0 to 255 -> (N, H', W', channels).
    """

    def __init__(self, layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        c32, c64, c80, c192 = scaled(width, 32, 64, 80, 192)
        self.Conv2d_1a_3x3 = CONV(c32, 3, 2)
        self.Conv2d_2a_3x3 = CONV(c32, 3)
        self.Conv2d_2b_3x3 = CONV(c64, 3, padding=1)
        self.Conv2d_3b_1x1 = CONV(c80, 1)
        self.Conv2d_4a_3x3 = CONV(c192, 3)
        self.blocks = sum(first_blocks(STAGES[:2], layers), ())
        for name in self.blocks:
            block, *widths = (STAGES[0] | STAGES[1])[name]
            setattr(self, name, block(*widths, width=width))
        self.channel_reduce = keras.Sequential([Conv2D(channels, 1), BatchNormalization(epsilon=1e-3)])

    def call(self, x, training=False):
        x = (x[..., ::-1] - 127.5) / 127.5  # RGB  # mirror: NHWC
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x, training=training), training=training)
        x = max_pool2d(self.Conv2d_2b_3x3(x, training=training), 3, 2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x, training=training), training=training)
        for name in self.blocks:
            x = getattr(self, name)(x, training=training)
        return self.channel_reduce(x[:, BORDER:-BORDER, BORDER:-BORDER], training=training)  # mirror: NHWC


def siamfcpp_googlenet_criterion(**options) -> SiamFCPPCriterion:
    """The losses of the published training, in which cells of the object count three times as much as others."""
    return SiamFCPPCriterion(**{"alpha": 0.75, **options})


def siamfcpp_googlenet(
    layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256, norms: tuple[bool, ...] = (False, False)
) -> SiamFCPP:
    return SiamFCPP(Inception3(layers, width, channels), norms)


def siamfcpp_googlenet_template(
    layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256
) -> SiamFCPPTemplate:
    return SiamFCPPTemplate(Inception3(layers, width, channels))


def siamfcpp_googlenet_track(
    layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256, norms: tuple[bool, ...] = (False, False)
) -> SiamFCPPTrack:
    return SiamFCPPTrack(Inception3(layers, width, channels), norms)
