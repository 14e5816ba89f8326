"""PSANet: every position collects from, and distributes to, the positions around it, with predicted weights.

"PSANet: Point-wise Spatial Attention Network for Scene Parsing", ECCV 2018.
Parameter names: mmsegmentation ``decode_heads/psa_head.py`` and mmcv ``ops/psa_mask.py`` (Apache-2.0).
What to look at: a mask larger than the map covers all of it; outside a smaller one the weight after the softmax is
exp(0), not 0; the last projection pads, so the map grows by 2 before it is resized.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = ["PSAHead", "SegmentationCriterion", "SegmentationPostProcess", "psa_mask", "psanet_r50_d8", "psanet_r101_d8"]


PSA_TYPES = ("collect", "distribute", "bi-direction")


def psa_mask(x, mask_size: tuple[int, int], psa_type: str):
    """Convert weights around each position to weights between all positions.

    Args:
        x: (N, H, W, h * w), for every position a mask of (h, w) centred on it.
        mask_size: (h, w).
        psa_type: "collect": entry [n, source, place] is the place's mask at the source; "distribute": entry
            [n, place, target] is the place's mask at the target.

    Returns:
        (N, H W, H W); 0 outside the mask.
    """
    (rows, columns), (height, width) = mask_size, map_size(x)
    y, x_ = tf.range(height), tf.range(width)
    # row and column of one position's mask (first axis) at another position (second axis)
    a = y - y[:, None] + (rows - 1) // 2  # (H, H)
    b = x_ - x_[:, None] + (columns - 1) // 2  # (W, W)
    row, column = a[:, None, :, None], b[None, :, None, :]
    reached = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    index = tf.clip_by_value(row, 0, rows - 1) * columns + tf.clip_by_value(column, 0, columns - 1)
    places = height * width
    index, reached = (tf.reshape(z, (1, places, places)) for z in (index, reached))
    masks = tf.reshape(x, (-1, places, rows * columns))
    y = tf.gather(masks, tf.tile(index, (tf.shape(x)[0], 1, 1)), batch_dims=2) * tf.cast(reached, x.dtype)
    return y if psa_type == "distribute" else tf.transpose(y, (0, 2, 1))


@keras.saving.register_keras_serializable("diptych")
class PSAHead(DecodeHead):
    """The head (section 3.3).

    Args:
        in_filters: of the map ``"c5"``, and of the attended map.
        filters: of the attention.
        num_classes, dropout: see :class:`DecodeHead`.
        mask_size: (h, w) of the masks.
        psa_type: "collect", "distribute" or "bi-direction", both.
        compact: whether masks already are weights between all positions; h * w is their number.
        shrink_factor: of the map in the attention.
        normalization_factor: divisor of the attended map.
        psa_softmax: whether weights pass a softmax over the positions summed over.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    Raises: ValueError if ``psa_type`` is unknown.
    """

    def __init__(
        self,
        in_filters: int,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        mask_size: tuple[int, int] = (97, 97),
        psa_type: str = "bi-direction",
        compact: bool = False,
        shrink_factor: int = 2,
        normalization_factor: float = 1.0,
        psa_softmax: bool = True,
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        if psa_type not in PSA_TYPES:
            raise ValueError(f"psa_type={psa_type!r} must be one of {PSA_TYPES}")
        self.mask_size, self.psa_type, self.compact = tuple(mask_size), psa_type, compact
        self.shrink_factor, self.normalization_factor = shrink_factor, normalization_factor
        self.psa_softmax = psa_softmax
        self.reduce = conv_bn(filters, 1)
        self.attention = self.masks(filters)
        both = psa_type == "bi-direction"
        if both:
            self.reduce_p = conv_bn(filters, 1)
            self.attention_p = self.masks(filters)
        self.proj = conv_bn(in_filters, 1, padding=1)
        self.bottleneck = conv_bn(filters, 3, padding=1)

    def masks(self, filters: int) -> keras.Sequential:
        """The layers that predict every position's mask."""
        size = self.mask_size[0] * self.mask_size[1]
        return keras.Sequential([conv_bn(filters, 1), Conv2D(size, 1, use_bias=False)])

    def shrunk(self, size: tuple[int, int]) -> tuple[tuple[int, int], bool]:
        """Height and width in the attention, and whether corners are aligned."""
        if all(n % 2 for n in size):
            return tuple((n - 1) // self.shrink_factor + 1 for n in size), True
        return tuple(n // self.shrink_factor for n in size), False

    def attend(self, x, attention, psa_type: str, training=False):
        """(N, H, W, C) -> (N, H, W, C)."""
        weights = attention(x, training=training)
        if self.compact:
            weights = tf.reshape(weights, (tf.shape(x)[0], -1, weights.shape[-1]))  # (N, place, other place)
            collects = psa_type == "collect" and self.psa_type == "collect"
            swapped = collects or (psa_type == "distribute" and self.psa_type == "bi-direction")
            weights = weights if swapped else tf.transpose(weights, (0, 2, 1))
        else:
            weights = psa_mask(weights, self.mask_size, psa_type)
        weights = tf.nn.softmax(weights, 1) if self.psa_softmax else weights
        places = tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1]))
        attended = tf.matmul(weights, places, transpose_a=True) / self.normalization_factor
        return tf.reshape(attended, tf.shape(x))

    def call(self, maps, training=False):
        identity, align_corners = maps["c5"], False
        reductions = [(self.reduce, self.attention, "collect" if self.psa_type != "distribute" else "distribute")]
        if self.psa_type == "bi-direction":
            reductions.append((self.reduce_p, self.attention_p, "distribute"))
        attended = []
        for reduce, attention, psa_type in reductions:
            x = reduce(identity, training=training)
            if self.shrink_factor != 1:
                size, align_corners = self.shrunk(map_size(x))
                x = resize_bilinear(x, size, align_corners)
            attended.append(self.attend(x, attention, psa_type, training))
        x = self.proj(tf.concat(attended, -1), training=training)
        x = resize_bilinear(x, map_size(identity), align_corners)
        return self.classify(self.bottleneck(tf.concat((identity, x), -1), training=training), training)


def psanet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    mask_size: tuple[int, int] = (97, 97),
    psa_type: str = "bi-direction",
    compact: bool = False,
    shrink_factor: int = 2,
    normalization_factor: float = 1.0,
    psa_softmax: bool = True,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = PSAHead(
        backbone.channels["c5"],
        channels,
        num_classes,
        dropout,
        mask_size,
        psa_type,
        compact,
        shrink_factor,
        normalization_factor,
        psa_softmax,
    )
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def psanet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return psanet_r50_d8(depth=depth, **options)
