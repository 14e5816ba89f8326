"""OCRNet: a first head's classes gather positions into regions, and every position attends to the regions.

"Object-Contextual Representations for Semantic Segmentation", 2019, arXiv:1909.11065.
Parameter names: mmsegmentation ``decode_heads/ocr_head.py`` (Apache-2.0); of :class:`HRNetOCR` those of the authors'
checkpoints (HRNet/HRNet-Semantic-Segmentation ``seg_hrnet_ocr.py``, MIT).
What to look at: two softmaxes, over positions to gather regions and over classes to attend; the first
head gets gradients through both losses.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
"""

import keras
import tensorflow as tf

from tf_impl.classification.hrnet import HRNet
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, FCNHead, conv_bn, dilated_resnet
from tf_impl.segmentation._self_attention import SelfAttentionBlock, flat

__all__ = [
    "CascadeEncoderDecoder",
    "HRNetOCR",
    "HRNetOCRCriterion",
    "HRNetOCRPostProcess",
    "OCRCriterion",
    "OCRHead",
    "ObjectAttention",
    "ObjectAttentionBlock",
    "SegmentationPostProcess",
    "SpatialOCRModule",
    "hrnet_w48_ocr",
    "joined",
    "ocrnet_hr18",
    "ocrnet_hr18s",
    "ocrnet_hr48",
    "ocrnet_r50_d8",
    "ocrnet_r101_d8",
]


def joined(maps) -> dict:
    """The maps, and as ``"all"`` all of them concatenated at the size of the first."""
    first, *others = maps.values()
    return {**maps, "all": tf.concat((first, *(resize_bilinear(x, map_size(first)) for x in others)), -1)}


@keras.saving.register_keras_serializable("diptych")
class ObjectAttention(SelfAttentionBlock):
    """Every position attends to the classes' regions and is joined with the result (equations 9 to 11).

    Args:
        filters: width C of the map and of the regions.
        inner: channels of keys, queries and values.

    Inputs: the map (N, H, W, C), the regions (N, K, 1, C).
    Returns: (N, H, W, C).
    """

    def __init__(self, filters: int, inner: int, **kwargs):
        super().__init__(inner, filters, num_convs=2, value_norm=True, **kwargs)
        self.bottleneck = conv_bn(filters, 1)

    def call(self, query, key, training=False):
        context = super().call(query, key, training)
        return self.bottleneck(tf.concat((context, query), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class OCRHead(DecodeHead):
    """The second head (section 3.2).

    Args:
        filters: of the map after its convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        ocr_filters: of keys, queries and values.
        in_map: name of the map.

    Inputs: dict of maps (N, H, W, C); logits (N, H, W, K) of the first head.
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        ocr_filters: int = 256,
        in_map: str = "c5",
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.in_map = in_map
        self.object_context_block = ObjectAttention(filters, ocr_filters)
        self.bottleneck = conv_bn(filters, 3, padding=1)

    def call(self, maps, logits, training=False):
        x = self.bottleneck(maps[self.in_map], training=training)
        shares = tf.nn.softmax(flat(logits), 1)  # of every class, over the positions
        regions = tf.matmul(shares, flat(x), transpose_a=True)  # (N, K, C)
        return self.classify(self.object_context_block(x, regions[:, :, None], training=training), training)


@keras.saving.register_keras_serializable("diptych")
class CascadeEncoderDecoder(Model):
    """Backbone, a head, and a head that sees the first one's logits.

    Args:
        backbone: returns its maps by name.
        heads: the two heads.
        join: whether the heads read all maps, joined (:func:`joined`).

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict of logits (N, H', W', K): ``"logits"`` of the second head, ``"aux_logits"`` of the first.
    """

    def __init__(self, backbone, heads, join: bool, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.join = backbone, join
        self.decode_head = list(heads)

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        maps = joined(maps) if self.join else maps
        first, second = self.decode_head
        regions = first(maps, training=training)
        return {"logits": second(maps, regions, training=training), "aux_logits": regions}


@keras.saving.register_keras_serializable("diptych")
class OCRCriterion(SegmentationCriterion):
    """Cross-entropy of both heads.

    Args:
        terms, options: see :class:`SegmentationCriterion`.

    Inputs and returns: as for :class:`SegmentationCriterion`.
    """

    def __init__(self, terms=(("decode_1.loss_ce", "logits", 1.0), ("decode_0.loss_ce", "aux_logits", 0.4)), **options):
        super().__init__(terms, **options)


def ocrnet_hr18(
    width: int = 18,
    num_classes: int = 19,
    channels: int = 512,
    ocr_channels: int = 256,
    **options,
) -> CascadeEncoderDecoder:
    backbone = HRNet(width, fuse_upsample="bilinear", features_only=True, **options)
    total = sum(backbone.channels.values())
    first = FCNHead(total, num_classes, 0.0, "all", num_convs=1, kernel_size=1, concat_input=False)
    second = OCRHead(channels, num_classes, 0.0, ocr_channels, "all")
    return CascadeEncoderDecoder(backbone, [first, second], join=True)


def ocrnet_hr18s(modules=(1, 3, 2), depth: int = 2, stage1=(2, 64), **options) -> CascadeEncoderDecoder:
    return ocrnet_hr18(modules=modules, depth=depth, stage1=stage1, **options)


def ocrnet_hr48(width: int = 48, **options) -> CascadeEncoderDecoder:
    return ocrnet_hr18(width=width, **options)


def ocrnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    ocr_channels: int = 256,
    aux_channels: int = 256,
    dropout: float = 0.1,
    **options,
) -> CascadeEncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    first = FCNHead(aux_channels, num_classes, dropout, "c4", num_convs=1, concat_input=False)
    second = OCRHead(channels, num_classes, dropout, ocr_channels)
    return CascadeEncoderDecoder(backbone, [first, second], join=False)


def ocrnet_r101_d8(depth: int = 101, **options) -> CascadeEncoderDecoder:
    return ocrnet_r50_d8(depth=depth, **options)


def conv_bn_relu(filters: int) -> list[keras.layers.Layer]:
    """1x1 convolution without bias; normalisation and ReLU in one."""
    conv = Conv2D(filters, 1, use_bias=False)
    return [conv, keras.Sequential([BatchNormalization(), keras.layers.ReLU()])]


def gathered(x, logits):
    """Mean features of each class's positions, weighted by the logits (equation 8).

    Args:
        x: (N, H, W, C).
        logits: (N, H, W, K).

    Returns:
        Regions (N, K, 1, C).
    """
    shares = tf.nn.softmax(flat(logits), 1)  # of every class, over the positions
    return tf.matmul(shares, flat(x), transpose_a=True)[:, :, None]


@keras.saving.register_keras_serializable("diptych")
class ObjectAttentionBlock(keras.layers.Layer):
    """Every position's attention to the regions (equations 9 and 10).

    Args:
        filters: width C of the map and of the regions.
        inner: channels of keys, queries and values.

    Inputs: the map (N, H, W, C), the regions (N, K, 1, C).
    Returns: (N, H, W, C).
    """

    def __init__(self, filters: int, inner: int, **kwargs):
        super().__init__(**kwargs)
        self.scale = inner**-0.5
        self.f_pixel = keras.Sequential([*conv_bn_relu(inner), *conv_bn_relu(inner)])
        self.f_object = keras.Sequential([*conv_bn_relu(inner), *conv_bn_relu(inner)])
        self.f_down = keras.Sequential(conv_bn_relu(inner))
        self.f_up = keras.Sequential(conv_bn_relu(filters))

    def call(self, x, regions, training=False):
        queries = self.f_pixel(x, training=training)
        keys, values = (flat(f(regions, training=training)) for f in (self.f_object, self.f_down))  # (N, K, inner)
        weights = tf.nn.softmax(tf.matmul(flat(queries), keys, transpose_b=True) * self.scale, -1)  # (N, HW, K)
        return self.f_up(tf.reshape(tf.matmul(weights, values), tf.shape(queries)), training=training)


@keras.saving.register_keras_serializable("diptych")
class SpatialOCRModule(keras.layers.Layer):
    """The map, joined with its positions' attention to the regions (equation 11).

    Args:
        filters: width C of the map and of the result.
        inner: see :class:`ObjectAttentionBlock`.
        dropout: rate, of whole channels.

    Inputs: the map (N, H, W, C), the regions (N, K, 1, C).
    Returns: (N, H, W, C).
    """

    def __init__(self, filters: int, inner: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.object_context_block = ObjectAttentionBlock(filters, inner)
        whole = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, None))  # mirror: whole channels
        self.conv_bn_dropout = keras.Sequential([*conv_bn_relu(filters), whole])

    def call(self, x, regions, training=False):
        received = self.object_context_block(x, regions, training=training)
        return self.conv_bn_dropout(tf.concat((received, x), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class HRNetOCR(HRNet):
    """The authors' network: all branches of HRNet joined, corners aligned, and the two heads.

    Args:
        width: of the branch with the highest resolution.
        num_classes: classes K.
        channels: of the map after its convolution.
        ocr_channels: of keys, queries and values.
        dropout: rate, of whole channels.
        options: ``modules``, ``depth`` and ``stage1`` of :class:`HRNet`.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict of logits (N, H / 4, W / 4, K): ``"logits"``, and ``"aux_logits"`` of the head that finds the regions.
    """

    def __init__(
        self,
        width: int,
        num_classes: int = 19,
        channels: int = 512,
        ocr_channels: int = 256,
        dropout: float = 0.05,
        **options,
    ):
        super().__init__(width, fuse_upsample="bilinear_corners", features_only=True, **options)
        total = sum(self.channels.values())
        self.conv3x3_ocr = keras.Sequential([Conv2D(channels, 3, padding=1), BatchNormalization(), keras.layers.ReLU()])
        self.ocr_distri_head = SpatialOCRModule(channels, ocr_channels, dropout)
        self.cls_head = Conv2D(num_classes, 1)
        self.aux_head = keras.Sequential(
            [Conv2D(total, 1), BatchNormalization(), keras.layers.ReLU(), Conv2D(num_classes, 1)]
        )

    def call(self, images, training=False):
        first, *others = self.branches(images, training)
        x = tf.concat((first, *(self.upsample(x, map_size(first)) for x in others)), -1)
        regions = self.aux_head(x, training=training)
        x = self.conv3x3_ocr(x, training=training)
        x = self.ocr_distri_head(x, gathered(x, regions), training=training)
        return {"logits": self.cls_head(x), "aux_logits": regions}


@keras.saving.register_keras_serializable("diptych")
class HRNetOCRCriterion(OCRCriterion):
    """Cross-entropy of both heads, the mean of the pixels that count, corners aligned.

    Args:
        ignore_index: label of pixels that do not.

    Inputs and returns: as for :class:`OCRCriterion`.
    """

    def __init__(self, ignore_index: int = 255, **kwargs):
        super().__init__(ignore_index=ignore_index, avg_non_ignore=True, align_corners=True, **kwargs)


@keras.saving.register_keras_serializable("diptych")
class HRNetOCRPostProcess(SegmentationPostProcess):
    """The class of every pixel of the input, corners aligned.

    Inputs and returns: as for :class:`SegmentationPostProcess`.
    """

    def __init__(self, **kwargs):
        super().__init__(align_corners=True, **kwargs)


def hrnet_w48_ocr(width: int = 48, **options) -> HRNetOCR:
    return HRNetOCR(width, **options)
