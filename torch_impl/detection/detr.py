"""DETR: a transformer maps a fixed set of queries to the set of an image's objects; no anchors, no suppression.

"End-to-End Object Detection with Transformers", 2020, arXiv:2005.12872.
Parameter names: facebookresearch/detr ``models/detr.py``, ``models/transformer.py``, ``models/backbone.py``
(Apache-2.0).
What to look at: the matching of queries and objects is computed on the host (``weights/processing/set_matching.py``),
and its indices are a target of the criterion.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the map is transposed before it becomes a row of cells, there not.
- Linear layers and attention start Xavier uniform: PyTorch fills all matrices of the finished transformer, Keras gives
  each layer its initial values.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.centres import corners
from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.attention import MultiheadAttention
from torch_impl.layers.positions import sinusoids
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax
from torch_impl.losses.box import giou_loss, l1_loss
from torch_impl.losses.cross_entropy import cross_entropy

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


class SinePositions(nn.Module):
    """Sines and cosines of a cell's row and column, relative to the size of its image (appendix A.4).

    Args:
        dim: width D.

    Inputs: ``padding`` (N, H, W) bool, True where a cell is not part of the image; ``like``, a tensor of the desired
        precision.
    Returns: (N, H, W, D), rows in the first half.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, padding, like):
        inside = (~padding).to(like.dtype)
        rows, columns = inside.cumsum(1), inside.cumsum(2)
        rows = rows / (rows[:, -1:] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        return torch.cat((sinusoids(rows, self.dim // 2), sinusoids(columns, self.dim // 2)), -1)


class LearnedPositions(nn.Module):
    """A learned vector for every row and for every column of the map.

    Args:
        dim: width D.

    Inputs: those of :class:`SinePositions`.
    Returns: (1, H, W, D), columns in the first half.
    Raises: ValueError if the map has more rows or columns than there are vectors.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.row_embed = nn.Embedding(POSITIONS, dim // 2)
        self.col_embed = nn.Embedding(POSITIONS, dim // 2)
        for table in (self.row_embed, self.col_embed):
            nn.init.uniform_(table.weight)

    def forward(self, padding, like):
        height, width = padding.shape[1:]
        if max(height, width) > POSITIONS:
            raise ValueError(f"a map of {height} x {width} cells has more than {POSITIONS} rows or columns")
        columns = self.col_embed.weight[:width].expand(height, -1, -1)
        rows = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat((columns, rows), -1)[None]


class EncoderLayer(nn.Module):
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

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, padding, positions):
        y = self.norm1(x) if self.pre_norm else x
        x = x + self.dropout(self.self_attn(y + positions, y + positions, y, padding))
        x = x if self.pre_norm else self.norm1(x)
        y = self.norm2(x) if self.pre_norm else x
        x = x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(y)))))
        return x if self.pre_norm else self.norm2(x)


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the map, and a feed-forward network.

    Args: those of :class:`EncoderLayer`.

    Inputs: ``x`` (N, Q, D), ``memory`` (N, S, D), ``padding`` (N, S) bool, ``positions`` (N, S, D), ``queries`` (Q, D),
        the positions of ``x``.
    Returns: (N, Q, D).
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, heads, dropout)
        self.multihead_attn = MultiheadAttention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, memory, padding, positions, queries):
        y = self.norm1(x) if self.pre_norm else x
        x = x + self.dropout(self.self_attn(y + queries, y + queries, y))
        x = x if self.pre_norm else self.norm1(x)
        y = self.norm2(x) if self.pre_norm else x
        x = x + self.dropout(self.multihead_attn(y + queries, memory + positions, memory, padding))
        x = x if self.pre_norm else self.norm2(x)
        y = self.norm3(x) if self.pre_norm else x
        x = x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(y)))))
        return x if self.pre_norm else self.norm3(x)


class Encoder(nn.Module):
    """A stack of layers, with a normalisation at the end if they normalise before.  (N, S, D) -> (N, S, D)."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, hidden, dropout, pre_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(dim) if pre_norm else None

    def forward(self, x, padding, positions):
        for layer in self.layers:
            x = layer(x, padding, positions)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """A stack of layers and one normalisation of what each returns.  Returns: list of (N, Q, D), one of each layer."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden, dropout, pre_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x, memory, padding, positions, queries):
        found = []
        for layer in self.layers:
            x = layer(x, memory, padding, positions, queries)
            found.append(self.norm(x))
        return found


class Transformer(nn.Module):
    """Encoder of the map, decoder of the queries, which start as zeros.

    Inputs: ``x`` (N, S, D), ``padding`` (N, S) bool, ``positions`` (N or 1, S, D), ``queries`` (Q, D).
    Returns: list of (N, Q, D), one of each layer of the decoder.
    """

    def __init__(self, depths: tuple[int, int], dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.encoder = Encoder(depths[0], dim, heads, hidden, dropout, pre_norm)
        self.decoder = Decoder(depths[1], dim, heads, hidden, dropout, pre_norm)
        for parameter in self.parameters():  # mirror: Xavier uniform
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x, padding, positions, queries):
        memory = self.encoder(x, padding, positions)
        start = torch.zeros_like(queries).expand(x.shape[0], -1, -1)
        return self.decoder(start, memory, padding, positions, queries)


class Perceptron(nn.Module):
    """Three linear layers, the first two with ReLU.  (..., D) -> (..., out_features)."""

    def __init__(self, dim: int, out_features: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_features)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class FrozenResNet(nn.Module):
    """The last map of a residual network with frozen normalisation.  (N, 3, H, W) -> (N, C, h, w)."""

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], output_stride: int):
        super().__init__()
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

    def forward(self, images):
        return self.body(images)["c5"]


class DETR(nn.Module):
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

    Inputs: ``images`` (N, 3, H, W) float, normalised, 0 in the padding; ``padding_mask`` (N, H, W) bool, True where an
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
    ):
        super().__init__()
        network = FrozenResNet(layers, planes, output_stride)
        self.transformer = Transformer(depths, dim, heads, hidden, dropout, pre_norm)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = Perceptron(dim, 4)
        self.query_embed = nn.Embedding(queries, dim)
        self.input_proj = nn.Conv2d(network.body.channels["c5"], dim, 1)
        positions = (LearnedPositions if learned_positions else SinePositions)(dim)
        self.backbone = nn.ModuleList([network, positions])

    def forward(self, images, padding_mask=None):
        network, positions = self.backbone
        x = network(images)
        if padding_mask is None:
            padding_mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
        padding = resize_nearest(padding_mask[:, None].to(x.dtype), map_size(x))[:, 0] > 0.5
        places = positions(padding, x).flatten(1, 2)
        x = self.input_proj(x).flatten(2).transpose(1, 2)  # (N, S, D); mirror: transposed
        outputs = {}
        found = self.transformer(x, padding.flatten(1), places, self.query_embed.weight)
        for i, y in enumerate(found):
            suffix = f"_{i}" if i < len(found) - 1 else ""
            outputs[f"pred_logits{suffix}"] = self.class_embed(y)
            outputs[f"pred_boxes{suffix}"] = torch.sigmoid(self.bbox_embed(y))
        return outputs


class DETRCriterion(nn.Module):
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

    def __init__(self, no_object_weight: float = 0.1, bbox_weight: float = 5.0, giou_weight: float = 2.0):
        super().__init__()
        self.no_object_weight, self.bbox_weight, self.giou_weight = no_object_weight, bbox_weight, giou_weight

    def forward(self, outputs, targets):
        dtype, valid = outputs["pred_logits"].dtype, targets["valid"]
        height, width = targets["image_size"].to(dtype)[:, None].unbind(-1)  # (N, 1)
        boxes = targets["boxes"].to(dtype) / torch.stack((width, height, width, height), -1)
        boxes = torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), -1)
        boxes = torch.where(valid[..., None], boxes, 0.5)  # padding gets a box with an area: finite, and masked
        count = valid.sum().clamp(min=1).to(dtype)
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
        queries = torch.arange(logits.shape[1], device=logits.device)
        mine = (indices[..., None] == queries) & valid[..., None]  # (N, M, Q)
        wanted = torch.where(mine, labels[..., None], -1).amax(1)
        wanted = torch.where(wanted >= 0, wanted, none)
        weight = torch.tensor([1.0] * none + [self.no_object_weight], dtype=logits.dtype, device=logits.device)
        classification = cross_entropy(logits, wanted, weight)
        predicted = torch.where(valid[..., None], take_rows(predicted, indices), 0.5)
        overlap = giou_loss(corners(predicted), corners(boxes), eps=0.0)
        return (
            classification,
            torch.where(valid, l1_loss(predicted, boxes), 0.0).sum(),
            torch.where(valid, overlap, 0.0).sum(),
        )


class DETRPostProcess(nn.Module):
    """The most probable class and the box of every query, in order.

    Inputs: ``outputs`` of the model; ``image_size`` (N, 2) integer, height and width of every image without padding.
    Returns: dict: ``"boxes"`` (N, Q, 4) xyxy in pixels, ``"scores"`` (N, Q), ``"labels"`` (N, Q) int64, ``"valid"``
        (N, Q) bool, always True: the caller chooses a threshold.
    """

    def forward(self, outputs, image_size):
        scores = F.softmax(outputs["pred_logits"], -1)[..., :-1]
        height, width = image_size.to(scores.dtype)[:, None].unbind(-1)  # (N, 1)
        boxes = corners(outputs["pred_boxes"]) * torch.stack((width, height, width, height), -1)
        best = scores.amax(-1)
        return {"boxes": boxes, "scores": best, "labels": argmax(scores), "valid": best >= 0}


def detr_resnet50(layers=(3, 4, 6, 3), **options) -> DETR:
    return DETR(layers=layers, **options)


def detr_resnet101(layers=(3, 4, 23, 3), **options) -> DETR:
    return DETR(layers=layers, **options)


def detr_resnet50_dc5(layers=(3, 4, 6, 3), output_stride=16, **options) -> DETR:
    return DETR(layers=layers, output_stride=output_stride, **options)


def detr_resnet101_dc5(layers=(3, 4, 23, 3), output_stride=16, **options) -> DETR:
    return DETR(layers=layers, output_stride=output_stride, **options)
