"""MTCNN: three small networks find faces, each among the candidates that the previous one kept.

"Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016, arXiv:1604.02878.
Parameter names: timesler/facenet-pytorch ``models/mtcnn.py`` (MIT). What to look at: P-Net is fully convolutional, so
one pass covers every 12x12 window of an image; the cascade around the networks, which needs no tensors, is
``weights/processing/face/mtcnn.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Before a dense layer maps are flattened as (W, H, C) in both: the weights come from Caffe's columns.
- The project's PReLU in Keras expects maps, so a row becomes a map of one cell.
"""

import functools

import torch
from torch import nn

__all__ = ["MTCNNCriterion", "ONet", "PNet", "RNet", "mtcnn_onet", "mtcnn_pnet", "mtcnn_rnet"]

POOL = functools.partial(nn.MaxPool2d, stride=2, ceil_mode=True)


def columns(x):
    """Maps (N, C, H, W) as rows (N, W H C)."""
    return x.permute(0, 3, 2, 1).flatten(1)  # mirror: flattened


def answers(logits, box, **others) -> dict:
    """The outputs of every network; classes are the first axis after the batch."""
    return {"logits": logits, "prob": logits.softmax(1), "box": box, **others}


class PNet(nn.Module):
    """The proposal network.

    Inputs: (N, 3, H, W) float, (RGB - 127.5) / 128; at least 12 x 12. A cell of the maps sees 12 x 12 pixels, and
        neighbouring cells are two pixels apart.
    Returns: dict of maps (N, ..., H', W'): ``"logits"`` and ``"prob"`` (2 channels: none, face), ``"box"`` (4 channels:
        shifts of left, top, right, bottom in sides of the window).
    """

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = POOL(2)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, images):
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return answers(self.conv4_1(x), self.conv4_2(x))  # mirror: NCHW


class RNet(nn.Module):
    """The refinement network.

    Inputs: (N, 3, 24, 24) float, see :class:`PNet`.
    Returns: dict of rows: ``"logits"``, ``"prob"`` (N, 2), ``"box"`` (N, 4).
    """

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = POOL(3)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = POOL(3)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, images):
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.dense4(columns(self.prelu3(self.conv3(x))))
        x = self.prelu4(x)  # mirror: expects maps
        return answers(self.dense5_1(x), self.dense5_2(x))


class ONet(nn.Module):
    """The output network.

    Inputs: (N, 3, 48, 48) float, see :class:`PNet`.
    Returns: dict of rows: ``"logits"``, ``"prob"`` (N, 2), ``"box"`` (N, 4), ``"landmarks"`` (N, 10): x of the left
        eye, the right eye, the nose, the left and the right corner of the mouth, then their y, in sides of the box.
    """

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = POOL(3)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = POOL(3)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = POOL(2)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, images):
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.dense5(columns(self.prelu4(self.conv4(x))))
        x = self.prelu5(x)
        return answers(self.dense6_1(x), self.dense6_2(x), landmarks=self.dense6_3(x))


def by_sample(losses):
    """The mean over the cells of a map; a row stays as it is.  (N, ...) -> (N,)."""
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def masked_mean(losses, counted):
    """The mean of the values that count, 0 if there are none."""
    return (losses * counted).sum() / counted.sum().clamp(min=1.0)


class MTCNNCriterion(nn.Module):
    """Cross-entropy of the hardest samples, squared distances of boxes and of landmarks (equations 1 to 5).

    Args:
        weights: of the class, the box and the landmarks: (1, 0.5, 0.5), for O-Net (1, 0.5, 1).
        keep: share of the samples with a class whose losses count, largest first.

    Inputs: ``outputs`` of a network; ``targets["types"]`` (N,) int: 1 face, 0 none, -1 part of a face, -2 face with
        landmarks; ``targets["boxes"]`` (N, 4) shifts, counted for 1 and -1; for O-Net ``targets["landmarks"]`` (N, 10),
        counted for -2. All cells of a map have the same target.
    Returns: dict of scalars, weighted: ``"det"``, ``"box"``, ``"landmark"`` (O-Net), ``"total"``, their sum.
    """

    def __init__(self, weights: tuple[float, float, float] = (1.0, 0.5, 0.5), keep: float = 0.7):
        super().__init__()
        self.parts, self.keep = tuple(weights), keep

    def hardest(self, losses, counted):
        """The mean of the largest losses among those that count; ties go to the first."""
        losses = torch.where(counted, losses, -torch.ones_like(losses))
        places = torch.arange(losses.shape[0], device=losses.device)
        above = (losses[None] > losses[:, None]) | (
            (losses[None] == losses[:, None]) & (places[None] < places[:, None])
        )
        rank = above.to(losses.dtype).sum(1)
        count = counted.to(losses.dtype).sum()
        kept = (self.keep * count + 1e-4).floor().clamp(min=1.0)  # 0.7 * 10 must be 7 whatever the rounding
        return masked_mean(losses, (counted & (rank < kept)).to(losses.dtype))

    def forward(self, outputs, targets):
        types = targets["types"]
        dtype = outputs["box"].dtype

        def spread(rows):
            """Make rows (N, D) broadcast to maps (N, D, H, W)."""
            return rows.reshape(*rows.shape, *(1,) * (outputs["box"].ndim - 2))

        face = torch.stack([types != 1, types == 1], 1).to(dtype)
        det = by_sample(-(spread(face) * outputs["logits"].log_softmax(1)).sum(1))
        losses = {"det": self.parts[0] * self.hardest(det, (types == 0) | (types == 1))}
        wanted = targets["boxes"].to(dtype)
        box = by_sample((outputs["box"] - spread(wanted)).square().sum(1))
        losses["box"] = self.parts[1] * masked_mean(box, ((types == 1) | (types == -1)).to(dtype))
        if "landmarks" in outputs:
            wanted = targets["landmarks"].to(dtype)
            landmarks = (outputs["landmarks"] - wanted).square().sum(1)
            losses["landmark"] = self.parts[2] * masked_mean(landmarks, (types == -2).to(dtype))
        return {**losses, "total": sum(losses.values())}


def mtcnn_pnet(**options) -> PNet:
    return PNet(**options)


def mtcnn_rnet(**options) -> RNet:
    return RNet(**options)


def mtcnn_onet(**options) -> ONet:
    return ONet(**options)
