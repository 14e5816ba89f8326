"""Region proposal networks: which anchors may contain an object, and the best boxes regressed from them.

"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015, arXiv:1506.01497.
Names: torchvision ``detection/rpn.py`` (BSD-3); mmdet ``dense_heads/rpn_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow: here the maps are transposed before they become rows of anchors, there not.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.boxes.convention import convention_of
from torch_impl.layers.initialization import normal
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.precision import single
from torch_impl.layers.rows import anchor_rows, take_rows
from torch_impl.layers.top_k import top_k

__all__ = ["ProposalNetwork", "RPNHead", "RegionProposalNetwork"]

RATIOS = (0.5, 1.0, 2.0)  # height / width


class ProposalNetwork(nn.Module):
    """Base of both networks below.

    Args:
        convention: "torchvision" or "mmdet".
        candidates: anchors kept per level, in training and in evaluation.
        proposals: boxes kept per image, in training and in evaluation, P.
        sizes: square roots of the anchors' areas, in strides.
        iou_threshold: boxes of one level overlap if their IoU is larger.

    Inputs: dict of levels (N, C, H, W), of stride 4 for "p2" and so on; ``image_size``: height and width in pixels;
        ``learning``: whether to keep as many as in training.
    Returns: dict: ``"objectness"`` (N, A) logits, ``"anchor_deltas"`` (N, A, 4), ``"anchors"`` (A, 4) xyxy in pixels,
        level by level; ``"proposals"`` (N, P, 4) xyxy in pixels, best first, then rows of 0.
    """

    def __init__(
        self,
        convention: str,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        sizes: tuple[float, ...] = (8.0,),
        iou_threshold: float = 0.7,
    ):
        super().__init__()
        self.convention = convention_of(convention)
        self.candidates, self.proposals, self.sizes = tuple(candidates), tuple(proposals), tuple(sizes)
        self.iou_threshold, self.coder = iou_threshold, DeltaCoder(clamp=self.convention.clamp)

    def maps(self, x):
        """One level -> logits (N, A, H, W) and deltas (N, 4 * A, H, W) of its cells' anchors."""
        raise NotImplementedError

    def anchors_of(self, level: str, size, image_size):
        """The anchors of a level (A, 4)."""
        nominal = 2 ** int(level[1:])
        cell = cell_anchors([size * nominal for size in self.sizes], RATIOS, self.convention.rounded_anchors)
        stride = (nominal, nominal)
        if not self.convention.nominal_stride:
            stride = tuple(whole // cells for whole, cells in zip(image_size, size))
        return grid_anchors(cell, size, stride)

    def forward(self, maps, image_size, learning: bool = False):
        logits, deltas, anchors = [], [], []
        for level, x in maps.items():
            of_objects, of_boxes = (single(values) for values in self.maps(x))
            logits.append(anchor_rows(of_objects, 1)[..., 0])
            deltas.append(anchor_rows(of_boxes, 4))
            anchors.append(torch.from_numpy(self.anchors_of(level, x.shape[2:], image_size)).to(of_boxes))
        proposals = self.best(logits, deltas, anchors, image_size, learning)
        return {
            "objectness": torch.cat(logits, 1),
            "anchor_deltas": torch.cat(deltas, 1),
            "anchors": torch.cat(anchors),
            "proposals": proposals,
        }

    def best(self, logits, deltas, anchors, image_size, learning: bool):
        """The best boxes (N, P, 4), from lists by level of logits (N, A), deltas (N, A, 4) and anchors (A, 4)."""
        found = []
        for level, (of_objects, of_boxes, boxes) in enumerate(zip(logits, deltas, anchors)):
            scores = of_objects.detach()
            scores = scores if self.convention.rank_logits else torch.sigmoid(scores)
            scores, index = top_k(scores, min(self.candidates[not learning], scores.shape[1]))
            scores = torch.sigmoid(scores) if self.convention.rank_logits else scores
            boxes = self.coder.decode(take_rows(of_boxes.detach(), index), boxes[index])
            found.append((scores, boxes, torch.full_like(index, level)))
        scores, boxes, levels = (torch.cat(parts, 1) for parts in zip(*found))
        boxes = clip_boxes(boxes, torch.tensor(image_size, device=boxes.device))
        size, least = boxes[..., 2:] - boxes[..., :2], self.convention.least_proposal
        valid = ((size >= least) if least else (size > 0)).all(-1)
        index, valid = batched_nms(boxes, scores, levels, valid, self.iou_threshold, self.proposals[not learning])
        return torch.where(valid[..., None], take_rows(boxes, index), 0.0)


class RPNConvolutions(nn.Module):
    """torchvision's convolutions: a 3x3 one with ReLU, then 1x1 ones for logits and deltas."""

    def __init__(self, channels: int, num_anchors: int):
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv = nn.Sequential(nn.Sequential(conv, nn.ReLU(inplace=True)))
        self.cls_logits = nn.Conv2d(channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, num_anchors * 4, 1)
        normal(self, 0.01)

    def forward(self, x):
        x = self.conv(x)
        return self.cls_logits(x), self.bbox_pred(x)


class RegionProposalNetwork(ProposalNetwork):
    """torchvision's names.

    Args:
        channels: channels of the levels.
        candidates, proposals: see :class:`ProposalNetwork`.
    """

    def __init__(
        self,
        channels: int,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
    ):
        super().__init__("torchvision", candidates, proposals)
        self.head = RPNConvolutions(channels, len(RATIOS) * len(self.sizes))

    def maps(self, x):
        return self.head(x)


class RPNHead(ProposalNetwork):
    """mmdet's names.

    Args:
        channels: channels of the levels and of the 3x3 convolution.
        candidates, proposals, sizes: see :class:`ProposalNetwork`.
    """

    def __init__(
        self,
        channels: int,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (1000, 1000),
        sizes: tuple[float, ...] = (8.0,),
    ):
        super().__init__("mmdet", candidates, proposals, sizes)
        anchors = len(RATIOS) * len(self.sizes)
        self.rpn_conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.rpn_cls = nn.Conv2d(channels, anchors, 1)
        self.rpn_reg = nn.Conv2d(channels, anchors * 4, 1)
        normal(self, 0.01)

    def maps(self, x):
        x = F.relu(self.rpn_conv(x), inplace=True)
        return self.rpn_cls(x), self.rpn_reg(x)
