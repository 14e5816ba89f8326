"""Center loss: every class has a centre, and embeddings are pulled towards their own.

"A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016 (ydwen/caffe-face). It is used with a
softmax loss, which keeps the centres apart. What to look at: the paper moves the centres by its own rule
(:func:`moved_centers`), most PyTorch code learns them by gradient (KaiyangZhou/pytorch-center-loss, MIT, whose
parameter name is used).

Mirror notes:
- Rows are added up per class by one-hot products in both panels; the centres change in place in training.
"""

import torch
from torch import nn

from torch_impl.losses.margin import encode
from torch_impl.losses.pairwise import embeddings_of

__all__ = ["CenterCriterion", "moved_centers"]

LIMITS = (1e-12, 1e12)  # bound of the distances in the PyTorch port, the masked ones included


def moved_centers(centers, embeddings, labels, alpha: float = 0.5):
    """Centres after one step of the paper's rule: towards the mean of the batch's members, slower for few members.

    Args:
        centers: (K, D).
        embeddings: (N, D).
        labels: (N,) int.
        alpha: rate.

    Returns:
        (K, D); a class without members keeps its centre.

    Source: equation 4 of the paper.
    """
    members = encode(labels, centers.shape[0], centers.dtype)
    count = members.sum(0)[:, None]
    return centers - alpha * (count * centers - members.T @ embeddings) / (1 + count)  # mirror: one-hot products


class CenterCriterion(nn.Module):
    """Squared distance of embeddings from the centre of their class.

    Args:
        num_classes, embedding_size: K and D.
        centers: "learned" by gradient, or "moved": a buffer that :meth:`update` changes after every step.
        alpha: rate of :func:`moved_centers`.
        form: "paper" halves the mean; "sum" does not, and bounds all N K distances from below by 1e-12 after those of
            other classes are set to 0 (the PyTorch port).
        weight: of the loss in the total.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"center"``, ``"total"`` (weighted).
    Raises: ValueError if ``centers`` or ``form`` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        centers: str = "learned",
        alpha: float = 0.5,
        form: str = "paper",
        weight: float = 1.0,
    ):
        super().__init__()
        if centers not in ("learned", "moved"):
            raise ValueError(f"centers={centers!r} must be 'learned' or 'moved'")
        if form not in ("paper", "sum"):
            raise ValueError(f"form={form!r} must be 'paper' or 'sum'")
        self.alpha, self.form, self.weight = alpha, form, weight
        first = torch.randn(num_classes, embedding_size)
        if centers == "learned":
            self.centers = nn.Parameter(first)
        else:
            self.register_buffer("centers", first)

    @torch.no_grad()
    def update(self, outputs, targets) -> None:
        """Move the centres by the paper's rule, after a step."""
        moved = moved_centers(self.centers, embeddings_of(outputs), targets["labels"], self.alpha)
        self.centers.copy_(moved)  # mirror: change in place

    def forward(self, outputs, targets):
        x, labels = embeddings_of(outputs), targets["labels"]
        members = encode(labels, self.centers.shape[0], x.dtype)
        square = (x - members @ self.centers).square().sum(1)
        if self.form == "paper":
            loss = square.mean() / 2
        else:
            loss = (members * square[:, None]).clamp(*LIMITS).sum() / x.shape[0]
        return {"center": loss, "total": self.weight * loss}
