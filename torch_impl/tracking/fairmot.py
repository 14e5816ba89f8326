"""FairMOT: one network both detects people and describes each of them.

"FairMOT: On the Fairness of Detection and Re-Identification in Multiple Object Tracking", 2020, arXiv:2004.01888.
Parameter names: ifzhang/FairMOT ``models/networks/pose_dla_dcn.py``, ``trains/mot.py`` (MIT). What to look at: the
description is read at the centre's cell, and two learnt numbers weight the two tasks; identities are assigned in
``weights/processing/tracking/fairmot.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

import math

import torch
from torch import nn

from torch_impl.boxes.heatmaps import peaks
from torch_impl.losses.cross_entropy import cross_entropy
from torch_impl.losses.heatmap import clamped_sigmoid, heatmap_focal_loss
from torch_impl.losses.pairwise import l2_normalize
from torch_impl.tracking._dla import DLASeg, gathered_l1, gathered_rows

__all__ = ["FairMOT", "FairMOTCriterion", "FairMOTPostProcess", "fairmot_dla34", "fairmot_dla34_wh2"]

STRIDE = 4  # pixels per cell of the maps
NO_PERSON = -1  # identity of an unknown person


class FairMOT(DLASeg):
    """The network of the paper.

    Args:
        borders: 4 for the distances to the borders, 2 for width and height.
        reid: length of the descriptions D.
        depths, widths: of the trunk, see ``DLA``.
        hidden: width of the heads' first convolution.

    Inputs: (N, 3, H, W) float, RGB in [0, 1], multiples of 32.
    Returns: dict of maps of stride 4: ``"hm"`` logits, ``"wh"`` size or distances and ``"reg"`` the centre's offset in
        its cell, in cells; ``"id"`` D numbers.
    """

    def __init__(
        self,
        borders: int = 4,
        reid: int = 128,
        depths: tuple[int, ...] = (1, 1, 1, 2, 2, 1),
        widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
        hidden: int = 256,
    ):
        super().__init__({"hm": 1, "wh": borders, "id": reid, "reg": 2}, depths, widths, hidden=hidden)

    def forward(self, images):
        return self.answers(images)


class FairMOTCriterion(nn.Module):
    """Focal loss of the peaks, L1 of boxes, cross-entropy of identities, weighted by two learnt numbers.

    Args:
        num_identities: in the training set.
        reid: length of the descriptions D.
        wh_weight, off_weight: of the two L1 losses relative to that of the peaks.

    Inputs: ``outputs`` of :class:`FairMOT`; ``targets``: ``"heat"`` (N, 1, H, W), ``"index"`` (N, M) int64 cells row by
        row, ``"valid"`` (N, M) bool, ``"sizes"`` (N, M, 2 or 4), ``"offsets"`` (N, M, 2), ``"identities"`` (N, M)
        int64, -1 if unknown.
    Returns: dict of scalars: ``"hm_loss"``, ``"wh_loss"``, ``"off_loss"``, ``"id_loss"``, ``"total"``.
    """

    def __init__(
        self,
        num_identities: int = 14455,
        reid: int = 128,
        wh_weight: float = 0.1,
        off_weight: float = 1.0,
    ):
        super().__init__()
        self.wh_weight, self.off_weight = wh_weight, off_weight
        self.scale = math.sqrt(2) * math.log(num_identities - 1)
        for name, value in (("s_det", -1.85), ("s_id", -1.05)):
            setattr(self, name, nn.Parameter(torch.full((1,), value)))
        self.classifier = nn.Linear(reid, num_identities)

    def forward(self, outputs, targets):
        heat, index, valid = clamped_sigmoid(outputs["hm"]), targets["index"], targets["valid"]
        identities = torch.where(valid, targets["identities"], NO_PERSON)
        embeddings = self.scale * l2_normalize(gathered_rows(outputs["id"], index))
        losses = {
            "hm_loss": heatmap_focal_loss(heat, targets["heat"].to(heat.dtype)),
            "wh_loss": gathered_l1(outputs["wh"], index, targets["sizes"], valid),
            "off_loss": gathered_l1(outputs["reg"], index, targets["offsets"], valid),
            "id_loss": cross_entropy(self.classifier(embeddings), identities, ignore_index=NO_PERSON),
        }
        det = losses["hm_loss"] + self.wh_weight * losses["wh_loss"] + self.off_weight * losses["off_loss"]
        s_det, s_id = self.s_det[0], self.s_id[0]
        total = (-s_det).exp() * det + (-s_id).exp() * losses["id_loss"] + s_det + s_id
        return {**losses, "total": total / 2}


class FairMOTPostProcess(nn.Module):
    """The best peaks of every frame and their embeddings.

    Args:
        detections: results per frame, K.

    Inputs: ``outputs`` of :class:`FairMOT`.
    Returns: dict: ``"boxes"`` (N, K, 4) xyxy in pixels, ``"scores"`` (N, K) descending, ``"embeddings"`` (N, K, D) of
        unit length.
    """

    def __init__(self, detections: int = 500):
        super().__init__()
        self.detections = detections

    def forward(self, outputs):
        heat = outputs["hm"].sigmoid()
        scores, _, row, column = peaks(heat, 3, min(self.detections, heat.shape[2] * heat.shape[3]))
        index = row * heat.shape[3] + column
        centre = torch.stack((column, row), -1).to(heat.dtype) + gathered_rows(outputs["reg"], index)
        size = gathered_rows(outputs["wh"], index)
        if size.shape[2] == 2:
            size = torch.cat((size / 2, size / 2), -1)
        boxes = torch.cat((centre - size[..., :2], centre + size[..., 2:]), -1)
        embeddings = l2_normalize(gathered_rows(outputs["id"], index))
        return {"boxes": STRIDE * boxes, "scores": scores, "embeddings": embeddings}


def fairmot_dla34(**options) -> FairMOT:
    return FairMOT(**options)


def fairmot_dla34_wh2(borders=2, reid=512, **options) -> FairMOT:
    return FairMOT(borders, reid, **options)
