"""DETR: a transformer maps a fixed set of queries to the set of an image's objects; no anchors, no suppression.

"End-to-End Object Detection with Transformers", 2020, arXiv:2005.12872.
Parameter names: facebookresearch/detr ``models/detr.py``, ``models/transformer.py``, ``models/backbone.py``
(Apache-2.0).
What to look at: the matching of queries and objects is computed on the host (``weights/processing/set_matching.py``),
and its indices are a target of the criterion.

Mirror notes:
- NHWC here, NCHW in PyTorch: there the map is transposed before it becomes a row of cells, here not.
- Linear layers and attention start Xavier uniform: PyTorch fills all matrices of the finished transformer, Keras gives
  each layer its initial values.
"""

import functools
import math

import keras
import tensorflow as tf

from tf_impl.boxes.centres import corners
from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.attention import MultiheadAttention
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense, Embedding
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import LayerNormalization
from tf_impl.layers.positions import sinusoids
from tf_impl.layers.precision import single
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax
from tf_impl.losses.box import giou_loss, l1_loss
from tf_impl.losses.cross_entropy import cross_entropy

__all__ = [
    "DETR",
    "DETRCriterion",
    "DETRPostProcess",
    "LearnedPositions",
    "SinePositions",
    "detr_resnet50",
    "detr_resnet50_dc5",
    "detr_resnet101",
    "detr_resnet101_dc5",
]

POSITIONS = 50  # rows and columns of the learned embedding


@keras.saving.register_keras_serializable("diptych", "detr.SinePositions")
class SinePositions(keras.layers.Layer):
    """Sines and cosines of a cell's row and column, relative to the size of its image (appendix A.4).

    Args:
        dim: width D.

    Inputs: ``padding`` (N, H, W) bool, True where a cell is not part of the image; ``like``, a tensor of the desired
        precision.
    Returns: (N, H, W, D), rows in the first half.
    """

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim

    def call(self, padding, like):
        inside = single(tf.cast(~padding, like.dtype))
        rows, columns = tf.cumsum(inside, 1), tf.cumsum(inside, 2)
        rows = rows / (rows[:, -1:] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        return tf.cast(tf.concat((sinusoids(rows, self.dim // 2), sinusoids(columns, self.dim // 2)), -1), like.dtype)


@keras.saving.register_keras_serializable("diptych", "detr.LearnedPositions")
class LearnedPositions(keras.layers.Layer):
    """A learned vector for every row and for every column of the map.

    Args:
        dim: width D.

    Inputs: those of :class:`SinePositions`.
    Returns: (1, H, W, D), columns in the first half.
    Raises: ValueError if the map has more rows or columns than there are vectors.
    """

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.row_embed = Embedding(POSITIONS, dim // 2, keras.initializers.RandomUniform(0.0, 1.0))
        self.col_embed = Embedding(POSITIONS, dim // 2, keras.initializers.RandomUniform(0.0, 1.0))

    def call(self, padding, like):
        height, width = padding.shape[1:]
        if max(height, width) > POSITIONS:
            raise ValueError(f"a map of {height} x {width} cells has more than {POSITIONS} rows or columns")
        columns = tf.convert_to_tensor(self.col_embed.embeddings)[:width]
        rows = tf.convert_to_tensor(self.row_embed.embeddings)[:height]
        columns, rows = tf.repeat(columns[None], height, 0), tf.repeat(rows[:, None], width, 1)
        return tf.concat((columns, rows), -1)[None]


dense = functools.partial(Dense, kernel_initializer="glorot_uniform")  # mirror: Xavier uniform


def attention(dim: int, heads: int, dropout: float) -> MultiheadAttention:
    """Attention whose four matrices start Xavier uniform."""
    layer = MultiheadAttention(dim, heads, dropout)
    layer.out_proj.kernel_initializer = "glorot_uniform"
    return layer


@keras.saving.register_keras_serializable("diptych", "detr.EncoderLayer")
class EncoderLayer(keras.layers.Layer):
    """Self-attention and a feed-forward network, each with a residual; positions are added to queries and keys.

    Args:
        dim: width D.
        heads: of the attention.
        hidden: width of the feed-forward network.
        dropout: rate.
        pre_norm: normalise before each half instead of after it.

    Inputs: ``x`` (N, S, D), ``padding`` (N, S) bool, ``positions`` (N, S, D).
    Returns: (N, S, D).
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool, **kwargs):
        super().__init__(**kwargs)
        self.pre_norm = pre_norm
        self.self_attn = attention(dim, heads, dropout)
        self.linear1, self.linear2 = dense(hidden), dense(dim)
        self.norm1, self.norm2 = LayerNormalization(), LayerNormalization()
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, padding, positions, training=False):
        y = self.norm1(x) if self.pre_norm else x
        y = self.self_attn(y + positions, y + positions, y, padding, training=training)
        x = x + self.dropout(y, training=training)
        x = x if self.pre_norm else self.norm1(x)
        y = self.norm2(x) if self.pre_norm else x
        y = self.linear2(self.dropout(tf.nn.relu(self.linear1(y)), training=training))
        x = x + self.dropout(y, training=training)
        return x if self.pre_norm else self.norm2(x)


@keras.saving.register_keras_serializable("diptych", "detr.DecoderLayer")
class DecoderLayer(keras.layers.Layer):
    """Self-attention of the queries, attention to the map, and a feed-forward network.

    Args: those of :class:`EncoderLayer`.

    Inputs: ``x`` (N, Q, D), ``memory`` (N, S, D), ``padding`` (N, S) bool, ``positions`` (N, S, D), ``queries`` (Q, D),
        the positions of ``x``.
    Returns: (N, Q, D).
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool, **kwargs):
        super().__init__(**kwargs)
        self.pre_norm = pre_norm
        self.self_attn = attention(dim, heads, dropout)
        self.multihead_attn = attention(dim, heads, dropout)
        self.linear1, self.linear2 = dense(hidden), dense(dim)
        self.norm1, self.norm2, self.norm3 = LayerNormalization(), LayerNormalization(), LayerNormalization()
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, memory, padding, positions, queries, training=False):
        y = self.norm1(x) if self.pre_norm else x
        x = x + self.dropout(self.self_attn(y + queries, y + queries, y, training=training), training=training)
        x = x if self.pre_norm else self.norm1(x)
        y = self.norm2(x) if self.pre_norm else x
        y = self.multihead_attn(y + queries, memory + positions, memory, padding, training=training)
        x = x + self.dropout(y, training=training)
        x = x if self.pre_norm else self.norm2(x)
        y = self.norm3(x) if self.pre_norm else x
        y = self.linear2(self.dropout(tf.nn.relu(self.linear1(y)), training=training))
        x = x + self.dropout(y, training=training)
        return x if self.pre_norm else self.norm3(x)


@keras.saving.register_keras_serializable("diptych", "detr.Encoder")
class Encoder(keras.layers.Layer):
    """A stack of layers, with a normalisation at the end if they normalise before.  (N, S, D) -> (N, S, D)."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool, **kwargs):
        super().__init__(**kwargs)
        self.layers = [EncoderLayer(dim, heads, hidden, dropout, pre_norm) for _ in range(depth)]
        self.norm = LayerNormalization() if pre_norm else None

    def call(self, x, padding, positions, training=False):
        for layer in self.layers:
            x = layer(x, padding, positions, training=training)
        return x if self.norm is None else self.norm(x)


@keras.saving.register_keras_serializable("diptych", "detr.Decoder")
class Decoder(keras.layers.Layer):
    """A stack of layers and one normalisation of what each returns.  Returns: list of (N, Q, D), one of each layer."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool, **kwargs):
        super().__init__(**kwargs)
        self.layers = [DecoderLayer(dim, heads, hidden, dropout, pre_norm) for _ in range(depth)]
        self.norm = LayerNormalization()

    def call(self, x, memory, padding, positions, queries, training=False):
        found = []
        for layer in self.layers:
            x = layer(x, memory, padding, positions, queries, training=training)
            found.append(self.norm(x))
        return found


@keras.saving.register_keras_serializable("diptych", "detr.Transformer")
class Transformer(keras.layers.Layer):
    """Encoder of the map, decoder of the queries, which start as zeros.

    Inputs: ``x`` (N, S, D), ``padding`` (N, S) bool, ``positions`` (N or 1, S, D), ``queries`` (Q, D).
    Returns: list of (N, Q, D), one of each layer of the decoder.
    """

    def __init__(
        self, depths: tuple[int, int], dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool, **kwargs
    ):
        super().__init__(**kwargs)
        self.encoder = Encoder(depths[0], dim, heads, hidden, dropout, pre_norm)
        self.decoder = Decoder(depths[1], dim, heads, hidden, dropout, pre_norm)

    def call(self, x, padding, positions, queries, training=False):
        memory = self.encoder(x, padding, positions, training=training)
        start = tf.zeros_like(x[:, :1, :]) * tf.ones_like(queries)
        return self.decoder(start, memory, padding, positions, queries, training=training)


@keras.saving.register_keras_serializable("diptych", "detr.Perceptron")
class Perceptron(keras.layers.Layer):
    """Three linear layers, the first two with ReLU.  (..., D) -> (..., out_features)."""

    def __init__(self, dim: int, out_features: int, **kwargs):
        super().__init__(**kwargs)
        self.layers = [Dense(dim), Dense(dim), Dense(out_features)]

    def call(self, x):
        return self.layers[2](tf.nn.relu(self.layers[1](tf.nn.relu(self.layers[0](x)))))


@keras.saving.register_keras_serializable("diptych", "detr.FrozenResNet")
class FrozenResNet(keras.layers.Layer):
    """The last map of a residual network with frozen normalisation.  (N, H, W, 3) -> (N, h, w, C)."""

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], output_stride: int, **kwargs):
        super().__init__(**kwargs)
        self.body = ResNet(
            Bottleneck,
            layers,
            planes=planes,
            output_stride=output_stride,
            norm="frozen",
            frozen_stages=1,
            features_only=True,
            out_indices=(4,),
        )

    def call(self, images, training=False):
        return self.body(images, training=training)["c5"]


@keras.saving.register_keras_serializable("diptych", "detr.DETR")
class DETR(Model):
    """Residual network, transformer, a class and a box for every query.

    Args:
        layers, planes, output_stride: of the residual network, see :class:`ResNet`.
        num_classes: classes K; "no object" is one more.
        queries: Q.
        dim: width D of the transformer.
        heads: of its attention.
        depths: layers of encoder and decoder.
        hidden: width of the feed-forward networks.
        dropout: rate in the transformer.
        learned_positions: whether positions of the map are learned vectors instead of sines.
        pre_norm: whether layers normalise before instead of after.

    Inputs: ``images`` (N, H, W, 3) float, normalised, 0 in the padding; ``padding_mask`` (N, H, W) bool, True where an
        image smaller than the batch was padded on the right and at the bottom; None for no padding.
    Returns: dict: ``"pred_logits"`` (N, Q, K + 1), ``"pred_boxes"`` (N, Q, 4) cxcywh in [0, 1], relative to the image;
        the same with ``"_0"``, ``"_1"``, ... of the decoder's layers before the last.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        output_stride: int = 32,
        num_classes: int = 91,
        queries: int = 100,
        dim: int = 256,
        heads: int = 8,
        depths: tuple[int, int] = (6, 6),
        hidden: int = 2048,
        dropout: float = 0.1,
        learned_positions: bool = False,
        pre_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        network = FrozenResNet(layers, planes, output_stride)
        self.transformer = Transformer(depths, dim, heads, hidden, dropout, pre_norm)
        self.class_embed = Dense(num_classes + 1)
        self.bbox_embed = Perceptron(dim, 4)
        self.query_embed = Embedding(queries, dim)
        self.input_proj = Conv2D(dim, 1)
        positions = (LearnedPositions if learned_positions else SinePositions)(dim)
        self.backbone = [network, positions]

    def call(self, images, padding_mask=None, training=False):
        network, positions = self.backbone
        x = network(images, training=training)
        if padding_mask is None:
            padding_mask = tf.zeros_like(images[..., 0], tf.bool)
        height, width = map_size(x)
        padding = resize_nearest(tf.cast(padding_mask, x.dtype)[..., None], (height, width))[..., 0] > 0.5
        places = positions(padding, x)
        places = tf.reshape(places, (-1, height * width, places.shape[-1]))
        x = self.input_proj(x)
        x = tf.reshape(x, (-1, height * width, x.shape[-1]))  # (N, S, D); mirror: transposed
        outputs = {}
        queries = tf.convert_to_tensor(self.query_embed.embeddings)
        found = self.transformer(x, tf.reshape(padding, (-1, height * width)), places, queries, training=training)
        for i, y in enumerate(found):
            suffix = f"_{i}" if i < len(found) - 1 else ""
            logits, boxes = self.class_embed(y), self.bbox_embed(y)
            # the number of queries is fixed in ONNX too
            outputs[f"pred_logits{suffix}"] = tf.reshape(logits, (-1, queries.shape[0], logits.shape[-1]))
            outputs[f"pred_boxes{suffix}"] = tf.sigmoid(tf.reshape(boxes, (-1, queries.shape[0], 4)))
        return outputs


@keras.saving.register_keras_serializable("diptych", "detr.DETRCriterion")
class DETRCriterion(keras.layers.Layer):
    """Cross-entropy of all queries, L1 and GIoU of the queries with an object, in every layer of the decoder.

    Args:
        no_object_weight: of the cross-entropy of queries without object.
        bbox_weight, giou_weight: of the boxes' losses in the total.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding, ``"image_size"`` (N, 2) int64, height and width of every image
        without its padding, ``"indices"`` (N, L, M) int64, the query of every slot in every layer of the decoder, the
        last layer last, from ``weights.processing.set_matching.match_layers``.
    Returns: dict of scalars: ``"loss_ce"``, ``"loss_bbox"``, ``"loss_giou"``; the same with ``"_0"``, ... of the layers
        before the last; ``"total"``.
    """

    def __init__(self, no_object_weight: float = 0.1, bbox_weight: float = 5.0, giou_weight: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.no_object_weight, self.bbox_weight, self.giou_weight = no_object_weight, bbox_weight, giou_weight

    def call(self, outputs, targets):
        dtype, valid = outputs["pred_logits"].dtype, targets["valid"]
        height, width = tf.unstack(tf.cast(targets["image_size"], dtype)[:, None], 2, -1)  # (N, 1)
        boxes = tf.cast(targets["boxes"], dtype) / tf.stack((width, height, width, height), -1)
        boxes = tf.concat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), -1)
        boxes = tf.where(valid[..., None], boxes, 0.5)  # padding gets a box with an area: finite, and masked
        count = tf.maximum(tf.reduce_sum(tf.cast(valid, dtype)), 1.0)
        depth, losses, total = targets["indices"].shape[1], {}, 0.0
        for layer in range(depth):
            suffix = f"_{layer}" if layer < depth - 1 else ""
            indices = targets["indices"][:, layer]
            found = self._of_layer(
                outputs[f"pred_logits{suffix}"],
                outputs[f"pred_boxes{suffix}"],
                indices,
                boxes,
                targets["labels"],
                valid,
            )
            losses |= {f"loss_ce{suffix}": found[0]}
            losses |= {f"loss_bbox{suffix}": found[1] / count, f"loss_giou{suffix}": found[2] / count}
            total = total + found[0] + (self.bbox_weight * found[1] + self.giou_weight * found[2]) / count
        return {**losses, "total": total}

    def _of_layer(self, logits, predicted, indices, boxes, labels, valid):
        """Mean cross-entropy, and the sums of L1 and of GIoU."""
        none = logits.shape[-1] - 1
        queries = tf.range(logits.shape[1], dtype=indices.dtype)
        mine = (indices[..., None] == queries) & valid[..., None]  # (N, M, Q)
        wanted = tf.reduce_max(tf.where(mine, labels[..., None], tf.constant(-1, labels.dtype)), 1)
        wanted = tf.where(wanted >= 0, wanted, tf.constant(none, labels.dtype))
        weight = tf.constant([1.0] * none + [self.no_object_weight], logits.dtype)
        classification = cross_entropy(logits, wanted, weight)
        predicted = tf.where(valid[..., None], take_rows(predicted, indices), 0.5)
        overlap = giou_loss(corners(predicted), corners(boxes), eps=0.0)
        return (
            classification,
            tf.reduce_sum(tf.where(valid, l1_loss(predicted, boxes), 0.0)),
            tf.reduce_sum(tf.where(valid, overlap, 0.0)),
        )


@keras.saving.register_keras_serializable("diptych", "detr.DETRPostProcess")
class DETRPostProcess(keras.layers.Layer):
    """The most probable class and the box of every query, in order.

    Inputs: ``outputs`` of the model; ``image_size`` (N, 2) integer, height and width of every image without padding.
    Returns: dict: ``"boxes"`` (N, Q, 4) xyxy in pixels, ``"scores"`` (N, Q), ``"labels"`` (N, Q) int64, ``"valid"``
        (N, Q) bool, always True: the caller chooses a threshold.
    """

    def call(self, outputs, image_size):
        scores = tf.nn.softmax(outputs["pred_logits"])[..., :-1]
        height, width = tf.unstack(tf.cast(image_size, scores.dtype)[:, None], 2, -1)  # (N, 1)
        boxes = corners(outputs["pred_boxes"]) * tf.stack((width, height, width, height), -1)
        best = tf.reduce_max(scores, -1)
        return {"boxes": boxes, "scores": best, "labels": argmax(scores), "valid": best >= 0}


def detr_resnet50(layers=(3, 4, 6, 3), **options) -> DETR:
    return DETR(layers=layers, **options)


def detr_resnet101(layers=(3, 4, 23, 3), **options) -> DETR:
    return DETR(layers=layers, **options)


def detr_resnet50_dc5(layers=(3, 4, 6, 3), output_stride=16, **options) -> DETR:
    return DETR(layers=layers, output_stride=output_stride, **options)


def detr_resnet101_dc5(layers=(3, 4, 23, 3), output_stride=16, **options) -> DETR:
    return DETR(layers=layers, output_stride=output_stride, **options)
