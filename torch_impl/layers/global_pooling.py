"""Global pooling of a map into a vector: by maximum, mean, generalised mean, the maxima of regions, or weighted sums.

"Particular object retrieval with integral max-pooling of CNN activations" (MAC, R-MAC), 2015, arXiv:1511.05879;
"Aggregating Deep Convolutional Features for Image Retrieval" (SPoC), 2015, arXiv:1510.07493; "Cross-dimensional
Weighting for Aggregated Deep Convolutional Features" (CroW), 2015, arXiv:1512.04065; "Fine-tuning CNN Image Retrieval
with No Human Annotation" (GeM), 2017, arXiv:1711.02512. Numbers and names: filipradenovic/cnnimageretrieval-pytorch
``cirtorch/layers`` (MIT).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow; vectors are (N, C) in both.
- Below a bound there is no gradient: ``clamp`` has this rule, for ``tf.maximum`` the comparison has to be written out.
"""

import torch
from torch import nn

from weights.processing.retrieval.regions import regions

__all__ = [
    "MAC",
    "RMAC",
    "CroW",
    "GeM",
    "RegionalPooling",
    "SPoC",
    "crow",
    "gem",
    "l2n",
    "mac",
    "regional",
    "rmac",
    "spoc",
]

EPS = 1e-6


def l2n(x):
    """Rows x / (|x| + 1e-6), (..., C)."""
    return x / (x.square().sum(-1, keepdim=True).clamp(min=EPS**4).sqrt() + EPS)


def mac(x):
    """Maximum of every channel."""
    return x.amax((2, 3))  # mirror: NCHW


def spoc(x):
    """Mean of every channel."""
    return x.mean((2, 3))


def gem(x, p=3.0):
    """(mean x^p)^(1/p) of every channel; values below 1e-6 count as 1e-6."""
    return x.clamp(min=EPS).pow(p).mean((2, 3)).pow(1.0 / p)  # mirror: Below a bound


def crow(x):
    """Sum of every channel, positions weighted by their total, channels by how rarely they are active."""
    total = x.sum(1, keepdim=True)  # (N, 1, H, W)
    share = total / (total.square().sum((2, 3), keepdim=True).clamp(min=EPS**2).sqrt())
    places = torch.where(total > 0, share.clamp(min=EPS**2).sqrt(), 0)
    active = (x != 0).to(x.dtype).mean((2, 3))  # (N, C)
    rarity = (active.sum(1, keepdim=True) / active.clamp(min=EPS)).clamp(min=EPS).log()
    return (x * places).sum((2, 3)) * torch.where(active > 0, rarity, 0)


def regional(x, pool, levels: int = 3):
    """The whole map and all regions through one pool; height and width are static.

    Returns:
        (N, R, C).
    """
    height, width = x.shape[2:]
    parts = [x[:, :, top : top + side, left : left + side] for top, left, side in regions(height, width, levels)]
    return torch.stack([pool(part) for part in (x, *parts)], 1)


def rmac(x, levels: int = 3):
    """Sum of the unit vectors of the whole map's and all regions' maxima."""
    return l2n(regional(x, mac, levels)).sum(1)


class MAC(nn.Module):
    """See :func:`mac`."""

    def forward(self, x):
        return mac(x)


class SPoC(nn.Module):
    """See :func:`spoc`."""

    def forward(self, x):
        return spoc(x)


class CroW(nn.Module):
    """See :func:`crow`."""

    def forward(self, x):
        return crow(x)


class GeM(nn.Module):
    """Generalised mean.

    Args:
        p: its power, or the initial value where it is learned.
        learned: whether it is a parameter.

    x: (N, C, H, W) -> (N, C).
    """

    def __init__(self, p: float = 3.0, learned: bool = True):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p)) if learned else p

    def forward(self, x):
        return gem(x, self.p)


class RMAC(nn.Module):
    """See :func:`rmac`.

    Args:
        levels: of regions.
    """

    def __init__(self, levels: int = 3):
        super().__init__()
        self.levels = levels

    def forward(self, x):
        return rmac(x, self.levels)


class RegionalPooling(nn.Module):
    """The sum of unit vectors, optionally whitened, of any pool over the whole map and all regions.

    Args:
        rpool: pools a region.
        whiten: a linear layer, or None.
        levels: of regions.

    x: (N, C, H, W) -> (N, D).
    """

    def __init__(self, rpool, whiten=None, levels: int = 3):
        super().__init__()
        self.rpool, self.whiten, self.levels = rpool, whiten, levels

    def forward(self, x):
        found = l2n(regional(x, self.rpool, self.levels))  # (N, R, C)
        if self.whiten is not None:
            found = l2n(self.whiten(found))
        return found.sum(1)
