"""SSD: classes and boxes of default boxes around the cells of six maps, trained with hard negatives.

"SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325; SSDLite: "MobileNetV2", 2018, arXiv:1801.04381, section
6.2, on "Searching for MobileNetV3", 2019, arXiv:1905.02244.
Parameter names: torchvision ``detection/ssd.py``, ``detection/ssdlite.py`` (BSD-3). Class 0 is the background.
What to look at: the losses of the background are sorted by size, and only the largest count.

Mirror notes:
- NHWC here, NCHW in PyTorch: there the heads' maps are transposed before they become rows of boxes, here not.
- A slice of ``nn.Sequential`` keeps its layers' numbers; Keras counts from 0 again, with a layer that does nothing.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.boxes.assignment import assign_max_iou
from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.default_boxes import default_boxes
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.classification.mobilenet_v3 import mobilenet_v3_large
from tf_impl.classification.vgg import vgg16
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.names import named_layers
from tf_impl.layers.nms import nms
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import smooth_l1_loss

__all__ = [
    "SSD",
    "SSDVGG",
    "SSDCriterion",
    "SSDHead",
    "SSDLiteHead",
    "SSDLiteMobileNet",
    "SSDPostProcess",
    "ssd300_vgg16",
    "ssd512_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "ssdlite_postprocess",
]

STDS = (0.1, 0.1, 0.2, 0.2)  # of the coder
# squeezed width, width, kernel size, stride, padding of the pairs of convolutions after the trunk (figure 2)
EXTRAS_300 = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
EXTRAS_512 = (
    (256, 512, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 4, 1, 1),
)
LITE_NORM = {"epsilon": 1e-3, "momentum": 0.97}
CONV = functools.partial(Conv2D, kernel_initializer="glorot_uniform", bias_initializer="zeros")


def box_rows(x, channels: int):  # mirror: transposed
    """(N, H, W, A * channels), the box outermost -> (N, H * W * A, channels)."""
    _, h, w, width = x.shape
    return tf.reshape(x, (-1, h * w * width // channels, channels))


def normalised(x):
    """Every pixel's channels divided by their norm.  (N, H, W, C) -> the same shape."""
    square = tf.reduce_sum(tf.square(x), -1, keepdims=True)
    positive = square > 1e-24  # the root has no gradient at 0; torchvision's smallest norm is 1e-12
    return x / tf.where(positive, tf.sqrt(tf.where(positive, square, 1.0)), 1e-12)


@keras.saving.register_keras_serializable("diptych")
class SSDVGG(keras.layers.Layer):
    """VGG-16 with its classifier as convolutions, and pairs of convolutions that halve the map.

    Args:
        depths, widths: of the five stages of :func:`vgg16`.
        hidden: width of the two convolutions that replace the classifier.
        extras: squeezed width, width, kernel size, stride, padding of every pair that follows.

    Inputs: (N, H, W, 3) float.
    Returns: list of maps: the last of stride 8, every pixel of length 1 times a learned scale; the last of stride 16;
        one per pair.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 3, 3, 3),
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        hidden: int = 1024,
        extras: tuple[tuple, ...] = EXTRAS_300,
        **kwargs,
    ):
        super().__init__(**kwargs)
        layers = list(vgg16(depths, widths=widths, features_only=True).features)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, MaxPooling2D)]
        layers[pools[2]] = MaxPooling2D(2, ceil_mode=True)
        self.scale_weight = self.add_weight(
            name="scale_weight", shape=(widths[3],), initializer=keras.initializers.Constant(20.0)
        )
        self.features = layers[: pools[3]]
        classifier = keras.Sequential(
            [
                MaxPooling2D(3, 1, 1),
                CONV(hidden, 3, padding=6, dilation_rate=6),
                keras.layers.ReLU(),
                CONV(hidden, 1),
                keras.layers.ReLU(),
            ]
        )
        pairs = []
        for squeezed, width, kernel_size, strides, padding in extras:
            convs = CONV(squeezed, 1), CONV(width, kernel_size, strides=strides, padding=padding)
            pairs.append(keras.Sequential([convs[0], keras.layers.ReLU(), convs[1], keras.layers.ReLU()]))
        self.extra = [keras.Sequential([*layers[pools[3] : pools[4]], classifier]), *pairs]
        self.channels = (widths[3], hidden, *(row[1] for row in extras))

    def call(self, images, training=False):
        x = images
        for layer in self.features:
            x = layer(x)
        maps = [tf.convert_to_tensor(self.scale_weight) * normalised(x)]
        for part in self.extra:
            x = part(x)
            maps.append(x)
        return maps


def conv_bn_relu6(filters: int, kernel_size=1, strides=1, groups=1):
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU6."""
    return keras.Sequential(
        [
            Conv2D(
                filters,
                kernel_size,
                strides=strides,
                padding=kernel_size // 2,
                groups=groups,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.03),
            ),
            BatchNormalization(**LITE_NORM),
            keras.layers.ReLU(6.0),
        ]
    )


@keras.saving.register_keras_serializable("diptych")
class SSDLiteMobileNet(keras.layers.Layer):
    """MobileNetV3 with half the channels in its last stage, and depthwise pairs that halve the map.

    Args:
        width: multiplier of the network's channels.
        extras: widths of the pairs that follow.

    Inputs: (N, H, W, 3) float.
    Returns: list of maps: the expansion before the last halving, at stride 16; the last map, at stride 32; one per
        pair.
    """

    def __init__(self, width: float = 1.0, extras: tuple[int, ...] = (512, 256, 256, 128), **kwargs):
        super().__init__(**kwargs)
        network = mobilenet_v3_large(reduced_tail=True, width=width)
        blocks, cut = list(network.features), network.stage_ends[3] + 1  # of these, the last block that halves the map
        for _, layer in named_layers(network):
            if isinstance(layer, BatchNormalization):
                layer.momentum = LITE_NORM["momentum"]
            elif isinstance(layer, Conv2D):
                layer.kernel_initializer = keras.initializers.RandomNormal(stddev=0.03)
        expansion, *rest = blocks[cut].block.layers
        rest = keras.Sequential([keras.layers.Identity(), *rest])  # mirror: keeps its layers' numbers
        self.features = [
            keras.Sequential([*blocks[:cut], expansion]),
            keras.Sequential([rest, *blocks[cut + 1 :]]),
        ]
        channels = [expansion.layers[0].filters, blocks[-1].layers[0].filters]
        pairs = []
        for out in extras:
            squeezed = out // 2
            pairs.append(
                keras.Sequential(
                    [
                        conv_bn_relu6(squeezed),
                        conv_bn_relu6(squeezed, 3, 2, squeezed),
                        conv_bn_relu6(out),
                    ]
                )
            )
            channels.append(out)
        self.extra = pairs
        self.channels = tuple(channels)

    def call(self, images, training=False):
        x, maps = images, []
        for part in (*self.features, *self.extra):
            x = part(x, training=training)
            maps.append(x)
        return maps


@keras.saving.register_keras_serializable("diptych")
class SSDPredictions(keras.layers.Layer):
    """One layer per map, with its results as rows.  List of (N, H, W, C) -> (N, sum of H * W * A, columns)."""

    def __init__(self, layers, columns: int, **kwargs):
        super().__init__(**kwargs)
        self.module_list, self.columns = list(layers), columns

    def call(self, maps, training=False):
        return tf.concat([box_rows(layer(x), self.columns) for layer, x in zip(self.module_list, maps)], 1)


@keras.saving.register_keras_serializable("diptych")
class SSDHead(keras.layers.Layer):
    """Class logits and box deltas of every default box, by 3x3 convolutions.

    Args:
        channels: of the maps.
        num_boxes: default boxes A of a cell, by map.
        num_classes: classes K.

    Inputs: list of maps (N, H, W, C).
    Returns: class logits (N, sum of H * W * A, K), box deltas (N, sum of H * W * A, 4).
    """

    def __init__(self, channels: tuple[int, ...], num_boxes: tuple[int, ...], num_classes: int, **kwargs):
        super().__init__(**kwargs)

        def layers(columns):
            return [CONV(a * columns, 3, padding=1) for _, a in zip(channels, num_boxes, strict=True)]

        self.classification_head = SSDPredictions(layers(num_classes), num_classes)
        self.regression_head = SSDPredictions(layers(4), 4)

    def call(self, maps, training=False):
        return self.classification_head(maps, training=training), self.regression_head(maps, training=training)


@keras.saving.register_keras_serializable("diptych")
class SSDLiteHead(keras.layers.Layer):
    """The same by 3x3 depthwise and 1x1 convolutions.

    Args: those of :class:`SSDHead`.

    Inputs and returns: as there.
    """

    def __init__(self, channels: tuple[int, ...], num_boxes: tuple[int, ...], num_classes: int, **kwargs):
        super().__init__(**kwargs)

        def layers(columns):
            last = functools.partial(Conv2D, kernel_initializer=keras.initializers.RandomNormal(stddev=0.03))
            return [
                keras.Sequential([conv_bn_relu6(c, 3, 1, c), last(a * columns, 1, bias_initializer="zeros")])
                for c, a in zip(channels, num_boxes, strict=True)
            ]

        self.classification_head = SSDPredictions(layers(num_classes), num_classes)
        self.regression_head = SSDPredictions(layers(4), 4)

    def call(self, maps, training=False):
        return self.classification_head(maps, training=training), self.regression_head(maps, training=training)


@keras.saving.register_keras_serializable("diptych")
class SSD(Model):
    """Trunk, head, default boxes.

    Args:
        backbone: returns a list of maps, and has their ``channels``.
        head: makes the head from channels, boxes per cell and classes.
        num_classes: classes K, including the background (0).
        ratios, scales, steps, clip: see :func:`default_boxes`.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas, ``"anchors"`` (A, 4) xyxy in
        pixels, the default boxes; ``"image_size"`` (2,) int64, H and W.
    """

    def __init__(
        self,
        backbone,
        head,
        num_classes: int,
        ratios: tuple[tuple[float, ...], ...],
        scales: tuple[float, ...],
        steps: tuple[float, ...] | None = None,
        clip: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = backbone
        self.head = head(backbone.channels, tuple(2 + 2 * len(of_map) for of_map in ratios), num_classes)
        self.boxes = functools.partial(default_boxes, scales=scales, ratios=ratios, steps=steps, clip=clip)

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        logits, deltas = self.head(maps, training=training)
        size = map_size(images)
        return {
            "cls_logits": logits,
            "bbox_regression": deltas,
            "anchors": tf.constant(self.boxes(size, [map_size(x) for x in maps]), images.dtype),
            "image_size": tf.constant(size, tf.int64),
        }


@keras.saving.register_keras_serializable("diptych")
class SSDCriterion(keras.layers.Layer):
    """Cross-entropy of the matched boxes and of the hardest others, smooth L1 loss of the deltas.

    A default box is matched with the object that it overlaps most, if by at least ``threshold``; every object gets its
    best box whatever the overlap, and the last of several objects wins.

    Args:
        threshold: as above.
        negatives: background boxes that count per matched box of an image.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        1 on, ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"bbox_regression"``, ``"classification"``, ``"total"``.
    """

    def __init__(self, threshold: float = 0.5, negatives: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.threshold, self.negatives, self.coder = threshold, negatives, DeltaCoder(STDS)

    def call(self, outputs, targets):
        logits, deltas, anchors = outputs["cls_logits"], outputs["bbox_regression"], outputs["anchors"]
        zero, boxes = tf.zeros([], logits.dtype), tf.cast(targets["boxes"], logits.dtype)
        valid = targets["valid"] & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        iou = pairwise_iou(boxes, anchors)  # (N, M, A)
        slots = tf.range(boxes.shape[1], dtype=tf.int64)[:, None]
        best = tf.range(anchors.shape[0], dtype=tf.int64) == argmax(iou, 2)[..., None]
        none = tf.constant(-1, tf.int64)
        forced = tf.reduce_max(tf.where(best & valid[..., None], slots, none), 1)  # (N, A)
        matched = tf.where(forced >= 0, forced, assign_max_iou(iou, valid, self.threshold, self.threshold, None))
        foreground = matched >= 0
        number = tf.reduce_sum(tf.cast(foreground, tf.int32), 1)  # (N,)
        count = tf.cast(tf.maximum(tf.reduce_sum(number), 1), logits.dtype)

        # a box without an object is its own target: finite, and masked
        wanted = tf.where(foreground[..., None], take_rows(boxes, matched), anchors)
        losses = smooth_l1_loss(deltas, self.coder.encode(wanted, anchors))
        regression = tf.reduce_sum(tf.where(foreground, losses, zero)) / count

        labels = take_rows(targets["labels"], matched)
        labels = tf.where(foreground, labels, tf.zeros_like(labels))
        losses = -tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=2)  # (N, A)
        hardest, _ = top_k(tf.where(foreground, tf.constant(-1, losses.dtype), losses), losses.shape[1])
        rank = tf.range(losses.shape[1])
        counted = (rank < self.negatives * number[:, None]) & (hardest >= 0)
        positive = tf.reduce_sum(tf.where(foreground, losses, zero))
        classification = (positive + tf.reduce_sum(tf.where(counted, hardest, zero))) / count
        return {
            "bbox_regression": regression,
            "classification": classification,
            "total": regression + classification,
        }


@keras.saving.register_keras_serializable("diptych")
class SSDPostProcess(keras.layers.Layer):
    """The best boxes of every image: the best candidates of each class, NMS among them, the best of all classes.

    Args:
        score_threshold: boxes of at most this probability of a class are dropped.
        candidates: boxes kept per class.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model; ``"image_size"`` may also be (N, 2), for images that were padded on the right and
        at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.01,
        candidates: int = 400,
        iou_threshold: float = 0.45,
        detections: int = 200,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.coder = iou_threshold, detections, DeltaCoder(STDS)

    def call(self, outputs):
        logits, anchors = outputs["cls_logits"], outputs["anchors"]
        classes, count = logits.shape[2] - 1, min(self.candidates, logits.shape[1])
        scores = tf.transpose(tf.nn.softmax(logits)[..., 1:], (0, 2, 1))  # (N, K - 1, A)
        scores, index = (tf.reshape(x, (-1, count)) for x in top_k(scores, count))  # (N (K - 1), candidates)
        boxes = clip_boxes(self.coder.decode(outputs["bbox_regression"], anchors), outputs["image_size"])
        boxes = tf.reshape(take_rows(boxes, tf.reshape(index, (-1, classes * count))), (-1, count, 4))
        most = min(self.detections, count)
        index, valid = nms(boxes, scores, self.iou_threshold, most, self.score_threshold)  # class by class
        scores = tf.where(valid, take_rows(scores, index), tf.constant(-1, scores.dtype))
        boxes = tf.reshape(take_rows(boxes, index), (-1, classes * most, 4))
        scores, index = top_k(tf.reshape(scores, (-1, classes * most)), min(self.detections, classes * most))
        valid = scores >= 0
        padding = ((0, 0), (0, self.detections - scores.shape[1]))
        labels = index // most + 1
        return {
            "boxes": tf.pad(
                tf.where(valid[..., None], take_rows(boxes, index), tf.zeros([], boxes.dtype)), (*padding, (0, 0))
            ),
            "scores": tf.pad(tf.where(valid, scores, tf.zeros([], scores.dtype)), padding),
            "labels": tf.pad(tf.where(valid, labels, tf.zeros([], labels.dtype)), padding),
            "valid": tf.pad(valid, padding),
        }


def ssdlite_postprocess(**options) -> SSDPostProcess:
    """The results of SSDLite."""
    own = {"score_threshold": 0.001, "candidates": 300, "iou_threshold": 0.55, "detections": 300}
    return SSDPostProcess(**{**own, **options})


def ssd300_vgg16(
    num_classes: int = 91,
    extras: tuple[tuple, ...] = EXTRAS_300,
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    scales: tuple[float, ...] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    steps: tuple[float, ...] = (8, 16, 32, 64, 100, 300),
    clip: bool = True,
    **options,
) -> SSD:
    return SSD(SSDVGG(extras=extras, **options), SSDHead, num_classes, ratios, scales, steps, clip)


def ssd512_vgg16(
    extras: tuple[tuple, ...] = EXTRAS_512,
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    scales: tuple[float, ...] = tuple(size / 512 for size in (20, 51, 133, 215, 296, 378, 460, 542)),
    steps: tuple[float, ...] = (8, 16, 32, 64, 128, 256, 512),
    clip: bool = False,
    **options,
) -> SSD:
    return ssd300_vgg16(extras=extras, ratios=ratios, scales=scales, steps=steps, clip=clip, **options)


def ssdlite320_mobilenet_v3_large(
    num_classes: int = 91,
    ratios: tuple[tuple[float, ...], ...] = ((2, 3),) * 6,
    scales: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
    **options,
) -> SSD:
    return SSD(SSDLiteMobileNet(**options), SSDLiteHead, num_classes, ratios, scales)
