"""ArcFace: a margin is added to the angle of the right class; also the combined margins and Partial FC.

"ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2018, arXiv:1801.07698; "Killing Two Birds with One
Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC", 2022, arXiv:2203.15565. Parameter names:
deepinsight/insightface ``recognition/arcface_torch`` (MIT). What to look at: that code computes the margin outside the
gradient, so the cosine's gradient is as if there were none (``grad="straight_through"``).

Mirror notes:
- Some classes of a weight only: PyTorch indexes its rows, TensorFlow gathers them.
"""

import torch
from torch import nn

from torch_impl.layers.top_k import top_k
from torch_impl.losses.margin import classify, encode, margin_cosines
from torch_impl.losses.pairwise import embeddings_of, similarities

__all__ = ["ArcFaceCriterion", "arcface", "combined_margin", "local_labels", "sample_classes"]


def sample_classes(labels, priorities, count: int):
    """Classes for a Partial FC step: all that occur in the batch, filled up with others in order of priority.

    Args:
        labels: (N,) int, -1 for no class.
        priorities: (K,) float in [0, 1), random numbers.
        count: how many classes, at least as many as occur.

    Returns:
        (count,) int64, ascending.
    """
    occurs = encode(labels, priorities.shape[0], priorities.dtype).amax(0)
    chosen = top_k(priorities + 2 * occurs, count)[1]
    return chosen.sort().values


def local_labels(labels, classes):
    """Index of every label (N,) among chosen classes (S,), int64; -1 if it is not there."""
    here = (labels[:, None] == classes[None]).long()
    return (here * torch.arange(1, classes.shape[0] + 1, device=labels.device)).sum(1) - 1


class ArcFaceCriterion(nn.Module):
    """Cross-entropy of scale * (cos(m1 theta + m2) - m3) for the right class and scale * cos(theta) for the others.

    Args:
        num_classes, embedding_size: K and D.
        scale: of the cosines.
        margins: m1, m2 (radians), m3.
        grad: "exact", or "straight_through": the margin is a constant added to the cosine.
        fallback: see :func:`margin_cosines`.
        filter_threshold: above 0, wrong classes whose cosine is larger are set to 0 (they may be mislabelled).

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets``: ``"labels"`` (N,) int, -1
        does not count; optionally ``"classes"`` (S,) int, the classes of this step (see :func:`sample_classes`).
    Returns: dict of scalars: ``"arcface"``, ``"total"`` (the same).
    Raises: ValueError if ``grad`` or ``fallback`` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int = 512,
        scale: float = 64.0,
        margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
        grad: str = "exact",
        fallback: str = "none",
        filter_threshold: float = 0.0,
    ):
        super().__init__()
        if grad not in ("exact", "straight_through"):
            raise ValueError(f"grad={grad!r} must be 'exact' or 'straight_through'")
        if fallback not in ("none", "monotone"):
            raise ValueError(f"fallback={fallback!r} must be 'none' or 'monotone'")
        self.scale, self.margins, self.grad = scale, tuple(margins), grad
        self.fallback, self.filter_threshold = fallback, filter_threshold
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, 0.0, 0.01)

    def logits(self, cosines, labels):
        """Logits with the margin, (N, K), of cosines (N, K) and labels (N,)."""
        target = encode(labels, cosines.shape[1], cosines.dtype)
        if self.filter_threshold > 0:
            dirty = (cosines > self.filter_threshold).to(cosines.dtype) * (1 - target)
            cosines = (1 - dirty) * cosines
        right = (target * cosines).sum(1, keepdim=True)
        change = margin_cosines(right, self.margins, self.fallback) - right
        if self.grad == "straight_through":
            change = change.detach()
        return self.scale * (cosines + target * change)

    def forward(self, outputs, targets):
        weight, labels = self.weight, targets["labels"]
        if "classes" in targets:
            weight = weight[targets["classes"]]  # mirror: Some classes of a weight
            labels = local_labels(labels, targets["classes"])
        loss = classify(self.logits(similarities(embeddings_of(outputs), weight), labels), labels)
        return {"arcface": loss, "total": loss}


def arcface(num_classes: int, embedding_size: int = 512, scale: float = 64.0, margin: float = 0.5, **options):
    return ArcFaceCriterion(num_classes, embedding_size, scale=scale, margins=(1.0, margin, 0.0), **options)


def combined_margin(num_classes: int, embedding_size: int = 512, margins=(1.0, 0.3, 0.2), **options):
    return ArcFaceCriterion(num_classes, embedding_size, margins=margins, **options)
