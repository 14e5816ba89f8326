"""PointRend: a coarse segmentation that is recomputed at the points where it is least certain.

"PointRend: Image Segmentation as Rendering", 2019, arXiv:1912.08193.
Parameter names: mmsegmentation ``decode_heads/fpn_head.py``, ``decode_heads/point_head.py`` (Apache-2.0). A point's
features are a pyramid's finest level and the coarse logits there.

Mirror notes:
- NCHW here, NHWC in TensorFlow; points follow the channels here, precede them there. Keras infers the input widths.
- The logits of some points are replaced by ``scatter``, in TensorFlow by ``tf.tensor_scatter_nd_update``.
"""

import torch
from torch import nn

from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.top_k import top_k
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess, pixel_cross_entropy
from torch_impl.necks.fpn import FPN
from torch_impl.rois.points import cell_points, halton, point_sample
from torch_impl.segmentation._encoder_decoder import DecodeHead, conv_bn, dilated_resnet
from torch_impl.segmentation.unet import Upsample

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


class FPNHead(DecodeHead):
    """Every level brought to the size of the first one by convolutions and enlargements; their sum is classified.

    Args:
        in_channels, channels: of the levels and of the convolutions.
        num_levels: levels, each of half the size of the one before.
        num_classes, dropout: see :class:`DecodeHead`.
        norm, norm_groups: of the convolutions, see :class:`ConvModule`.

    Inputs: list of levels (N, in_channels, H_i, W_i).
    Returns: logits (N, K, H_0, W_0).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_levels: int = 4,
        num_classes: int = 19,
        dropout: float = 0.0,
        norm="batch",
        norm_groups: int = 32,
    ):
        super().__init__(channels, num_classes, dropout)
        heads = []
        for i in range(num_levels):
            widths = [in_channels, *[channels] * max(i, 1)]
            layers = []
            for width in widths[:-1]:
                layers.append(conv_bn(width, channels, 3, padding=1, norm=norm, norm_groups=norm_groups))
                if i > 0:
                    layers.append(Upsample())
            heads.append(nn.Sequential(*layers))
        self.scale_heads = nn.ModuleList(heads)

    def forward(self, levels):
        first, *others = (head(x) for head, x in zip(self.scale_heads, levels))
        size = map_size(first)
        return self.classify(first + sum(resize_bilinear(x, size) for x in others))


class PointHead(nn.Module):
    """Pointwise linear layers, each of which may see the coarse logits again.

    Args:
        in_channels: of the fine features.
        num_classes: classes K.
        channels, num_fcs: width and number of the layers.
        coarse_each_layer: whether all layers see the coarse logits, or only the first one.

    Inputs: fine features (N, C, P), coarse logits (N, K, P).
    Returns: logits (N, K, P).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 19,
        channels: int = 256,
        num_fcs: int = 3,
        coarse_each_layer: bool = True,
    ):
        super().__init__()
        self.coarse_each_layer = coarse_each_layer
        later = channels + num_classes if coarse_each_layer else channels
        widths = [in_channels + num_classes, *[later] * num_fcs]
        self.fcs = nn.ModuleList(ConvModule(width, channels, 1, conv=nn.Conv1d) for width in widths[:num_fcs])
        self.fc_seg = nn.Conv1d(widths[-1], num_classes, 1)
        nn.init.normal_(self.fc_seg.weight, std=0.01)
        nn.init.zeros_(self.fc_seg.bias)

    def forward(self, fine, coarse):
        x = torch.cat([fine, coarse], 1)
        for layer in self.fcs:
            x = layer(x)
            x = torch.cat([x, coarse], 1) if self.coarse_each_layer else x
        return self.fc_seg(x)


def uncertainty(logits):
    """Second largest minus largest logit.  (N, K, P) -> (N, P)."""
    largest = top_k(logits.transpose(1, 2), 2)[0]
    return largest[..., 1] - largest[..., 0]


class PointRend(nn.Module):
    """Backbone, pyramid, coarse head, head of points.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        decode_head: the two heads.
        points, oversampling: points per image that the loss is computed at, and the factor of the candidates.
        subdivision_points: largest number of cells replaced after each upsampling.

    Inputs: (N, 3, H, W) float, normalised; ``targets`` of the criterion, which may hold ``"point_candidates"``
        (N, oversampling * points, 2) and ``"point_choices"`` (N, points - 3 / 4 points, 2), shares of the image,
        instead of fixed ones.
    Returns: dict: ``"coarse_logits"`` (N, K, H / 4, W / 4) and ``"logits"`` (N, K, H, W), refined; with targets,
        instead of the latter, ``"points"`` (N, points, 2) and ``"point_logits"`` (N, K, points).
    """

    def __init__(
        self, backbone, neck, decode_head, points: int = 2048, oversampling: int = 3, subdivision_points: int = 8196
    ):
        super().__init__()
        self.backbone, self.neck, self.decode_head = backbone, neck, nn.ModuleList(decode_head)
        self.points, self.important, self.oversampling = points, int(IMPORTANT * points), oversampling
        self.subdivision_points = subdivision_points

    def forward(self, images, targets=None):
        levels = list(self.neck(self.backbone(images)).values())
        coarse = self.decode_head[0](levels)
        if targets is None:
            return {"coarse_logits": coarse, "logits": self.refine(levels[0], coarse)}
        points = self.choose(coarse.detach(), targets)
        return {"coarse_logits": coarse, "points": points, "point_logits": self.render(levels[0], coarse, points)}

    def render(self, fine, coarse, points):
        """Logits (N, K, P) at points (N, P, 2), from the finest level and the coarse logits."""
        return self.decode_head[1](point_sample(fine, points), point_sample(coarse, points))

    def choose(self, coarse, targets):
        """The least certain of many points, and some others: (N, points, 2)."""
        count, others = self.oversampling * self.points, self.points - self.important
        both = torch.from_numpy(halton(count + others)).to(coarse)
        candidates, choices = (part.expand(coarse.shape[0], -1, -1) for part in (both[:count], both[count:]))
        candidates = targets.get("point_candidates", candidates)
        choices = targets.get("point_choices", choices)
        index = top_k(uncertainty(point_sample(coarse, candidates)), self.important)[1]
        return torch.cat([candidates.gather(1, index[..., None].expand(-1, -1, 2)), choices], 1)

    def refine(self, fine, coarse):
        """Logits of four times the height and width."""
        x = coarse
        for _ in range(SUBDIVISIONS):
            size = tuple(2 * n for n in map_size(x))
            rows = resize_bilinear(x, size).flatten(2)  # (N, K, H * W)
            index = top_k(uncertainty(rows), min(self.subdivision_points, size[0] * size[1]))[1]
            logits = self.render(fine, coarse, cell_points(index, size, x.dtype))
            rows = rows.scatter(2, index[:, None].expand(-1, rows.shape[1], -1), logits)  # mirror: scatter
            x = rows.reshape(*rows.shape[:2], *size)
        return x


class PointSegmentationCriterion(SegmentationCriterion):
    """Cross-entropy of the coarse logits at the size of the labels, and of the points.

    Args:
        ignore_index: label of pixels that add nothing.
        avg_non_ignore: count only the pixels that are not ignored in the means.

    Inputs: ``outputs`` of the model; ``targets["labels"]`` (N, H, W) int.
    Returns: dict of scalars: ``"decode_0.loss_ce"``, ``"decode_1.pointloss_ce"``, ``"total"``.
    """

    def __init__(self, ignore_index: int = 255, avg_non_ignore: bool = False):
        terms = (("decode_0.loss_ce", "coarse_logits", 1.0),)
        super().__init__(terms, ignore_index, avg_non_ignore=avg_non_ignore)

    def forward(self, outputs, targets):
        losses, labels = super().forward(outputs, targets), targets["labels"]
        height, width = labels.shape[1:]
        size = torch.tensor([width, height], device=labels.device)
        place = torch.round(outputs["points"].detach() * size - 0.5).to(torch.int64)  # the nearest pixel
        column, row = torch.clamp(place[..., 0], 0, width - 1), torch.clamp(place[..., 1], 0, height - 1)
        wanted = labels.flatten(1).gather(1, row * width + column)
        logits = outputs["point_logits"][..., None]
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
        FPNHead(out_channels, channels, num_classes=num_classes),
        PointHead(out_channels, num_classes, point_channels, coarse_each_layer=coarse_each_layer),
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
        FPNHead(out_channels, channels, num_classes=num_classes, norm="group", norm_groups=norm_groups),
        PointHead(out_channels, num_classes, point_channels, coarse_each_layer=False),
    ]
    return PointRend(backbone, neck, heads, points, subdivision_points=subdivision_points)


def pointrend_semantic_criterion(**options) -> PointSegmentationCriterion:
    """The authors' losses, means of the pixels that count."""
    return PointSegmentationCriterion(**{"avg_non_ignore": True, **options})
