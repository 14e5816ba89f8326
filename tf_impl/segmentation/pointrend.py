"""PointRend: a coarse segmentation that is recomputed at the points where it is least certain.

"PointRend: Image Segmentation as Rendering", 2019, arXiv:1912.08193.
Parameter names: mmsegmentation ``decode_heads/fpn_head.py``, ``decode_heads/point_head.py`` (Apache-2.0). A point's
features are a pyramid's finest level and the coarse logits there.

Mirror notes:
- NHWC here, NCHW in PyTorch; points precede the channels here, follow them there. Keras infers the input widths.
- The logits of some points are replaced by ``tf.tensor_scatter_nd_update``, in PyTorch by ``scatter``.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv1D
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.top_k import top_k
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess, pixel_cross_entropy
from tf_impl.necks.fpn import FPN
from tf_impl.rois.points import cell_points, halton, point_sample
from tf_impl.segmentation._encoder_decoder import DecodeHead, conv_bn, dilated_resnet
from tf_impl.segmentation.unet import Upsample

__all__ = [
    "FPNHead",
    "PointHead",
    "PointRend",
    "PointSegmentationCriterion",
    "SegmentationPostProcess",
    "pointrend_r50",
    "pointrend_r101",
    "pointrend_semantic_criterion",
    "pointrend_semantic_r101",
]

IMPORTANT = 0.75  # of the points in training are the least certain ones
SUBDIVISIONS = 2


@keras.saving.register_keras_serializable("diptych")
class FPNHead(DecodeHead):
    """Every level brought to the size of the first one by convolutions and enlargements; their sum is classified.

    Args:
        filters: of the convolutions.
        num_levels: levels, each of half the size of the one before.
        num_classes, dropout: see :class:`DecodeHead`.
        norm, norm_groups: of the convolutions, see :class:`ConvModule`.

    Inputs: list of levels (N, H_i, W_i, C).
    Returns: logits (N, H_0, W_0, K).
    """

    def __init__(
        self,
        filters: int,
        num_levels: int = 4,
        num_classes: int = 19,
        dropout: float = 0.0,
        norm="batch",
        norm_groups: int = 32,
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        heads = []
        for i in range(num_levels):
            layers = []
            for _ in range(max(i, 1)):
                layers.append(conv_bn(filters, 3, padding=1, norm=norm, norm_groups=norm_groups))
                if i > 0:
                    layers.append(Upsample())
            heads.append(keras.Sequential(layers))
        self.scale_heads = heads

    def call(self, levels, training=False):
        first, *others = (head(x, training=training) for head, x in zip(self.scale_heads, levels))
        size = map_size(first)
        return self.classify(first + sum(resize_bilinear(x, size) for x in others), training)


@keras.saving.register_keras_serializable("diptych")
class PointHead(keras.layers.Layer):
    """Pointwise linear layers, each of which may see the coarse logits again.

    Args:
        num_classes: classes K.
        filters, num_fcs: width and number of the layers.
        coarse_each_layer: whether all layers see the coarse logits, or only the first one.

    Inputs: fine features (N, P, C), coarse logits (N, P, K).
    Returns: logits (N, P, K).
    """

    def __init__(
        self,
        num_classes: int = 19,
        filters: int = 256,
        num_fcs: int = 3,
        coarse_each_layer: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.coarse_each_layer = coarse_each_layer
        self.fcs = [ConvModule(filters, 1, conv=Conv1D) for _ in range(num_fcs)]
        normal = keras.initializers.RandomNormal(stddev=0.01)
        self.fc_seg = Conv1D(num_classes, 1, kernel_initializer=normal, bias_initializer="zeros")

    def call(self, fine, coarse):
        x = tf.concat([fine, coarse], -1)
        for layer in self.fcs:
            x = layer(x)
            x = tf.concat([x, coarse], -1) if self.coarse_each_layer else x
        return self.fc_seg(x)


def uncertainty(logits):
    """Second largest minus largest logit.  (N, P, K) -> (N, P)."""
    largest = top_k(logits, 2)[0]
    return largest[..., 1] - largest[..., 0]


@keras.saving.register_keras_serializable("diptych")
class PointRend(Model):
    """Backbone, pyramid, coarse head, head of points.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        decode_head: the two heads.
        points, oversampling: points per image that the loss is computed at, and the factor of the candidates.
        subdivision_points: largest number of cells replaced after each upsampling.

    Inputs: (N, H, W, 3) float, normalised; ``targets`` of the criterion, which may hold ``"point_candidates"``
        (N, oversampling * points, 2) and ``"point_choices"`` (N, points - 3 / 4 points, 2), shares of the image,
        instead of fixed ones.
    Returns: dict: ``"coarse_logits"`` (N, H / 4, W / 4, K) and ``"logits"`` (N, H, W, K), refined; with targets,
        instead of the latter, ``"points"`` (N, points, 2) and ``"point_logits"`` (N, points, K).
    """

    def __init__(
        self,
        backbone,
        neck,
        decode_head,
        points: int = 2048,
        oversampling: int = 3,
        subdivision_points: int = 8196,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.neck, self.decode_head = backbone, neck, list(decode_head)
        self.points, self.important, self.oversampling = points, int(IMPORTANT * points), oversampling
        self.subdivision_points = subdivision_points

    def call(self, images, targets=None, training=False):
        maps = self.neck(self.backbone(images, training=training), training=training)
        levels = list(maps.values())
        coarse = self.decode_head[0](levels, training=training)
        if targets is None:
            return {"coarse_logits": coarse, "logits": self.refine(levels[0], coarse)}
        points = self.choose(tf.stop_gradient(coarse), targets)
        return {"coarse_logits": coarse, "points": points, "point_logits": self.render(levels[0], coarse, points)}

    def render(self, fine, coarse, points):
        """Logits (N, P, K) at points (N, P, 2), from the finest level and the coarse logits."""
        return self.decode_head[1](point_sample(fine, points), point_sample(coarse, points))

    def choose(self, coarse, targets):
        """The least certain of many points, and some others: (N, points, 2)."""
        count, others = self.oversampling * self.points, self.points - self.important
        both = tf.constant(halton(count + others), coarse.dtype)
        candidates, choices = (
            tf.broadcast_to(part, (tf.shape(coarse)[0], *part.shape)) for part in (both[:count], both[count:])
        )
        candidates = targets.get("point_candidates", candidates)
        choices = targets.get("point_choices", choices)
        index = top_k(uncertainty(point_sample(coarse, candidates)), self.important)[1]
        return tf.concat([tf.gather(candidates, index, batch_dims=1), choices], 1)

    def refine(self, fine, coarse):
        """Logits of four times the height and width."""
        x = coarse
        for _ in range(SUBDIVISIONS):
            size = tuple(2 * n for n in map_size(x))
            x = resize_bilinear(x, size)
            rows = tf.reshape(x, (-1, size[0] * size[1], x.shape[-1]))  # (N, H * W, K)
            index = top_k(uncertainty(rows), min(self.subdivision_points, size[0] * size[1]))[1]
            logits = self.render(fine, coarse, cell_points(index, size, x.dtype))
            image = tf.tile(tf.range(tf.shape(rows, out_type=tf.int64)[0])[:, None], (1, index.shape[1]))
            # mirror: tf.tensor_scatter_nd_update
            rows = tf.tensor_scatter_nd_update(rows, tf.stack([image, index], -1), logits)
            # via NCHW: ONNX Runtime would move a transpose past the next Resize, whose sizes it then loses
            planes = tf.reshape(tf.transpose(rows, (0, 2, 1)), (-1, rows.shape[-1], *size))
            x = tf.transpose(planes, (0, 2, 3, 1))
        return x


@keras.saving.register_keras_serializable("diptych")
class PointSegmentationCriterion(SegmentationCriterion):
    """Cross-entropy of the coarse logits at the size of the labels, and of the points.

    Args:
        ignore_index: label of pixels that add nothing.
        avg_non_ignore: count only the pixels that are not ignored in the means.

    Inputs: ``outputs`` of the model; ``targets["labels"]`` (N, H, W) int.
    Returns: dict of scalars: ``"decode_0.loss_ce"``, ``"decode_1.pointloss_ce"``, ``"total"``.
    """

    def __init__(self, ignore_index: int = 255, avg_non_ignore: bool = False, **kwargs):
        terms = (("decode_0.loss_ce", "coarse_logits", 1.0),)
        super().__init__(terms, ignore_index, avg_non_ignore=avg_non_ignore, **kwargs)

    def call(self, outputs, targets):
        losses, labels = super().call(outputs, targets), targets["labels"]
        height, width = labels.shape[1:]
        points = tf.stop_gradient(outputs["points"])
        place = tf.cast(tf.round(points * tf.constant([width, height], points.dtype) - 0.5), tf.int64)  # nearest pixel
        column, row = tf.clip_by_value(place[..., 0], 0, width - 1), tf.clip_by_value(place[..., 1], 0, height - 1)
        wanted = tf.gather(tf.reshape(labels, (-1, height * width)), row * width + column, batch_dims=1)
        logits = outputs["point_logits"][:, :, None]
        loss = pixel_cross_entropy(logits, wanted[..., None], self.ignore_index, avg_non_ignore=self.avg_non_ignore)
        return {**losses, "decode_1.pointloss_ce": loss, "total": losses["total"] + loss}


def pointrend_r50(
    depth: int = 50,
    num_classes: int = 19,
    out_channels: int = 256,
    channels: int = 128,
    point_channels: int = 256,
    points: int = 2048,
    subdivision_points: int = 8196,
    coarse_each_layer: bool = True,
    **options,
) -> PointRend:
    backbone = dilated_resnet(depth, 32, **options)
    neck = FPN(backbone.channels, out_channels, 4)
    heads = [
        FPNHead(channels, num_classes=num_classes),
        PointHead(num_classes, point_channels, coarse_each_layer=coarse_each_layer),
    ]
    return PointRend(backbone, neck, heads, points, subdivision_points=subdivision_points)


def pointrend_r101(depth: int = 101, **options) -> PointRend:
    return pointrend_r50(depth=depth, **options)


def pointrend_semantic_r101(
    layers=(3, 4, 23, 3),
    planes=(64, 128, 256, 512),
    num_classes: int = 19,
    out_channels: int = 256,
    channels: int = 128,
    point_channels: int = 256,
    points: int = 2048,
    subdivision_points: int = 8192,
    norm_groups: int = 32,
) -> PointRend:
    """The authors' network: its trunk has no deep stem, and frozen normalisation."""
    backbone = ResNet(Bottleneck, layers, planes=planes, stride_in_1x1=True, norm="frozen", features_only=True)
    neck = FPN(backbone.channels, out_channels, 4)
    heads = [
        FPNHead(channels, num_classes=num_classes, norm="group", norm_groups=norm_groups),
        PointHead(num_classes, point_channels, coarse_each_layer=False),
    ]
    return PointRend(backbone, neck, heads, points, subdivision_points=subdivision_points)


def pointrend_semantic_criterion(**options) -> PointSegmentationCriterion:
    """The authors' losses, means of the pixels that count."""
    return PointSegmentationCriterion(**{"avg_non_ignore": True, **options})
