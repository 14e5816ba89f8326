"""NetVLAD: residuals to cluster centres, summed with soft assignments.

"NetVLAD: CNN architecture for weakly supervised place recognition", 2015, arXiv:1511.07247. Names:
Nanne/pytorch-NetVlad (no licence; formulas only). Initial values: ``weights.processing.retrieval.netvlad``.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow: positions are the last axis there, the middle one here.
"""

import torch
from torch import nn

from torch_impl.losses.pairwise import l2_normalize

__all__ = ["NetVLAD", "netvlad_v1", "netvlad_v2"]


class NetVLAD(nn.Module):
    """Vector of locally aggregated descriptors.

    Args:
        num_clusters: K.
        dim: channels D of the map.
        vladv2: the assignment has a bias.

    x: (N, D, H, W) -> (N, K D) of unit length.
    """

    def __init__(self, num_clusters: int = 64, dim: int = 128, vladv2: bool = False):
        super().__init__()
        self.centroids = nn.Parameter(torch.rand(num_clusters, dim))
        self.conv = nn.Conv2d(dim, num_clusters, 1, bias=vladv2)

    def forward(self, x):
        x = nn.functional.normalize(x, dim=1)
        assignment = self.conv(x).flatten(2).softmax(1)  # (N, K, H W)
        vlad = assignment @ x.flatten(2).mT - assignment.sum(2)[:, :, None] * self.centroids  # mirror: positions are
        return l2_normalize(l2_normalize(vlad).flatten(1))


def netvlad_v1(num_clusters: int = 64, dim: int = 512) -> NetVLAD:
    return NetVLAD(num_clusters, dim)


def netvlad_v2(num_clusters: int = 64, dim: int = 512) -> NetVLAD:
    return NetVLAD(num_clusters, dim, vladv2=True)
