"""Siam R-CNN in the parts that its loop over frames calls: the first frame's object, and the detections in a later
frame.

Papers, names of parameters: see ``siamrcnn.py``, which has the third part, the similarity of boxes. What to look at:
the object is an input of the second part, so a tracker computes its features once; the features of the detections are
returned too, and are compared with those of previous frames. A part holds the parameters that it uses, under their
names in the whole model.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.layers.resize import map_size
from torch_impl.tracking.siamrcnn import (
    BINS,
    CONVENTION,
    STDS,
    ConvGN,
    Group,
    Pyramid,
    RoIExtractor,
    SiamRCNN,
    SiamRCNNPostProcess,
)

__all__ = [
    "SiamRCNNTemplate",
    "SiamRCNNTrack",
    "siamrcnn_r50_template",
    "siamrcnn_r50_track",
    "siamrcnn_r101_template",
    "siamrcnn_r101_track",
]


class SiamRCNNTemplate(nn.Module):
    """The part of :class:`SiamRCNN` for the first frame.

    Args:
        layers, planes, channels, groups_of_norm: see :class:`SiamRCNN`.

    Inputs: ``template`` (N, 3, H, W), ``template_box`` (N, 4): as of :class:`SiamRCNN`.
    Returns: (N, channels, 7, 7), the features of the box.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        channels: int = 256,
        groups_of_norm: int = 32,
    ):
        super().__init__()
        self.conv0 = ConvGN(3, planes[0], 7, 2, groups_of_norm)
        inputs = planes[0]
        for i, (count, width) in enumerate(zip(layers, planes, strict=True)):
            setattr(self, f"group{i}", Group(inputs, width, count, 2 if i else 1, groups_of_norm))
            inputs = 4 * width
        self.fpn = Pyramid(tuple(4 * width for width in planes), channels, groups_of_norm)  # mirror: infers
        self.roi_extractor = RoIExtractor("mmdet", BINS)
        self.roi_extractor.convention = CONVENTION
        self.requires_grad_(False)  # frozen, as in the whole model

    maps = SiamRCNN.maps

    def forward(self, template, template_box):
        return self.roi_extractor(self.maps(template), template_box[:, None])


class SiamRCNNTrack(SiamRCNN):
    """The part of :class:`SiamRCNN` for later frames, its post-process included.

    Args:
        layers, planes, channels, units, groups_of_norm, candidates, proposals, samples: see :class:`SiamRCNN`.
        score_threshold, detections: see :class:`SiamRCNNPostProcess`; D.

    Inputs: ``reference`` (N, channels, 7, 7) of :class:`SiamRCNNTemplate`; ``images`` (N, 3, H, W), ``active``
        (N, T, 4): as of :class:`SiamRCNN`.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"valid"`` (N, D) bool;
        ``"features"`` (N, D, channels, 7, 7) of the boxes.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        channels: int = 256,
        units: int = 1024,
        groups_of_norm: int = 32,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        score_threshold: float = 0.005,
        detections: int = 100,
    ):
        super().__init__(layers, planes, channels, units, groups_of_norm, candidates, proposals, samples)
        self.best = SiamRCNNPostProcess(score_threshold, detections=detections)

    def forward(self, reference, images, active):
        maps, size = self.maps(images), torch.tensor(map_size(images), device=images.device)
        proposals = torch.cat((self.rpn(maps, map_size(images))["proposals"].detach(), active), 1)
        scores, deltas = 0.0, None
        for stage in range(len(STDS)):
            if deltas is not None:
                proposals = self.refine(stage - 1, proposals, deltas, size)
            logits, deltas = self.classify(stage, reference, maps, proposals)
            scores = scores + logits.softmax(2)[..., 1] / len(STDS)
        outputs = {"proposals": proposals, "scores": scores, "box_deltas": deltas, "image_size": size}
        found = self.best(outputs)
        features = self.roi_extractor(maps, found["boxes"])
        features = features.reshape(-1, found["boxes"].shape[1], *features.shape[1:])
        return {name: found[name] for name in ("boxes", "scores", "valid")} | {"features": features}


def siamrcnn_r50_template(layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> SiamRCNNTemplate:
    return SiamRCNNTemplate(layers, **options)


def siamrcnn_r101_template(layers: tuple[int, ...] = (3, 4, 23, 3), **options) -> SiamRCNNTemplate:
    return SiamRCNNTemplate(layers, **options)


def siamrcnn_r50_track(layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> SiamRCNNTrack:
    return SiamRCNNTrack(layers, **options)


def siamrcnn_r101_track(layers: tuple[int, ...] = (3, 4, 23, 3), **options) -> SiamRCNNTrack:
    return SiamRCNNTrack(layers, **options)
