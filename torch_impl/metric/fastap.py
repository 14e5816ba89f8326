"""FastAP: the average precision of every anchor's ranking, made differentiable by soft histograms of the distances.

"Deep Metric Learning to Rank", CVPR 2019 (kunhe/FastAP-metric-learning, MIT; its hand-written gradient is the
derivative of the formula here). The listwise loss of naver/deep-image-retrieval is the same with 20 bins.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.pairwise import embeddings_of, l2_normalize, masked_mean, pair_masks

__all__ = ["FastAPCriterion"]


class FastAPCriterion(nn.Module):
    """1 - average precision, over the anchors with a positive.

    Args:
        bins: intervals of the squared distance of unit vectors, from 0 to 4; there is one centre more than intervals.
        normalize: scale embeddings to unit length first; the reference leaves that to the network.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"fastap"``, ``"total"`` (the same); 0 if no anchor has a positive.
    """

    def __init__(self, bins: int = 10, normalize: bool = True):
        super().__init__()
        if bins < 1:
            raise ValueError(f"bins={bins} must be at least 1")
        self.bins, self.normalize = bins, normalize

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        positives, negatives = pair_masks(targets["labels"])
        x = l2_normalize(x) if self.normalize else x
        square = 2 - 2 * x @ x.T
        width = 4 / self.bins
        centers = torch.arange(self.bins + 1, dtype=x.dtype, device=x.device) * width
        pulse = F.relu(1 - (square[:, :, None] - centers).abs() / width)  # (N, N, L)
        hits = (pulse * positives[:, :, None].to(x.dtype)).sum(1)  # (N, L)
        everyone = (pulse * (positives | negatives)[:, :, None].to(x.dtype)).sum(1)
        total_hits, total = hits.cumsum(1), everyone.cumsum(1)
        reached = total > 0
        precision = torch.where(reached, total_hits, 0) / torch.where(reached, total, 1)
        count = positives.to(x.dtype).sum(1)
        average = (hits * precision).sum(1) / count.clamp(min=1)
        loss = masked_mean(1 - average, count > 0)
        return {"fastap": loss, "total": loss}
