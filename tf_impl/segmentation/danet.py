"""DANet: two parallel attentions, one between positions and one between channels.

"Dual Attention Network for Scene Segmentation", 2018, arXiv:1809.02983.
Parameter names: mmsegmentation ``decode_heads/da_head.py`` (Apache-2.0).
What to look at: channels attend to the least similar channels, because energies are subtracted from their maximum, as
in the reference.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.scale import Scale
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = ["CAM", "PAM", "DAHead", "DANetCriterion", "SegmentationPostProcess", "danet_r50_d8", "danet_r101_d8"]


@keras.saving.register_keras_serializable("diptych")
class PAM(keras.layers.Layer):
    """Position attention: every position receives a weighted sum over all positions (section 3.2).

    Args:
        filters: width C of the map.
        inner: channels of queries and keys.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, filters: int, inner: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.key_project = Conv2D(inner, 1)
        self.query_project = Conv2D(inner, 1)
        self.value_project = Conv2D(filters, 1)
        self.gamma = Scale(0.0)

    def call(self, x):
        queries, keys, values = (
            flat(project(x)) for project in (self.query_project, self.key_project, self.value_project)
        )
        weights = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True), -1)  # (N, HW, HW)
        return x + self.gamma(tf.reshape(tf.matmul(weights, values), tf.shape(x)))


def flat(x):
    """(N, H, W, C) -> (N, HW, C)."""
    return tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1]))


@keras.saving.register_keras_serializable("diptych")
class CAM(keras.layers.Layer):
    """Channel attention: every channel receives a weighted sum over all channels (section 3.3).

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gamma = Scale(0.0)

    def call(self, x):
        places = flat(x)  # (N, HW, C)
        energy = tf.matmul(places, places, transpose_a=True)
        weights = tf.nn.softmax(tf.reduce_max(energy, -1, keepdims=True) - energy, -1)  # (N, C, C)
        return x + self.gamma(tf.reshape(tf.matmul(places, weights, transpose_b=True), tf.shape(x)))


@keras.saving.register_keras_serializable("diptych")
class DAHead(DecodeHead):
    """Both attentions between two convolutions each, and the sum of their maps (section 3.1).

    Args:
        filters: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        pam_filters: of queries and keys of the position attention.

    Inputs: dict of maps (N, H, W, C).
    Returns: dict of logits (N, H, W, K): ``"logits"`` of the sum, ``"pam_logits"`` and ``"cam_logits"`` of the parts.
    """

    def __init__(
        self, filters: int = 512, num_classes: int = 19, dropout: float = 0.1, pam_filters: int = 64, **kwargs
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.pam_in_conv = conv_bn(filters, 3, padding=1)
        self.pam = PAM(filters, pam_filters)
        self.pam_out_conv = conv_bn(filters, 3, padding=1)
        self.pam_conv_seg = Conv2D(num_classes, 1)
        self.cam_in_conv = conv_bn(filters, 3, padding=1)
        self.cam = CAM()
        self.cam_out_conv = conv_bn(filters, 3, padding=1)
        self.cam_conv_seg = Conv2D(num_classes, 1)

    def call(self, maps, training=False):
        x = maps["c5"]
        of_places = self.pam_out_conv(self.pam(self.pam_in_conv(x, training=training)), training=training)
        of_channels = self.cam_out_conv(self.cam(self.cam_in_conv(x, training=training)), training=training)
        return {
            "logits": self.classify(of_places + of_channels, training),
            "pam_logits": self.pam_conv_seg(self.dropout(of_places, training=training)),
            "cam_logits": self.cam_conv_seg(self.dropout(of_channels, training=training)),
        }


@keras.saving.register_keras_serializable("diptych")
class DANetCriterion(SegmentationCriterion):
    """Cross-entropy of the sum, of each part, and of the auxiliary head.

    Args:
        terms: see :class:`SegmentationCriterion`.
        options: of :class:`SegmentationCriterion`.

    Inputs and returns: as for :class:`SegmentationCriterion`.
    """

    def __init__(
        self,
        terms=(
            ("decode.pam_cam.loss_ce", "logits", 1.0),
            ("decode.pam.loss_ce", "pam_logits", 1.0),
            ("decode.cam.loss_ce", "cam_logits", 1.0),
            ("aux.loss_ce", "aux_logits", 0.4),
        ),
        **options,
    ):
        super().__init__(terms, **options)


def danet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    pam_channels: int = 64,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = DAHead(channels, num_classes, dropout, pam_channels)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def danet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return danet_r50_d8(depth=depth, **options)
