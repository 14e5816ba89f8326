"""Connectionist temporal classification: the likelihood of a label sequence, summed over all its alignments.

"Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006.
The recursion loops over time in Python and is vectorised over samples and label positions; it consists of ordinary
operations, so it is differentiable, works in every float type and exports. :func:`ctc_gradient` is the gradient in
closed form.

Mirror notes:
- TensorFlow refuses to gather a class that does not exist, PyTorch refuses to scatter it: labels after the end become
  blanks.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.top_k import argmax

__all__ = ["CTCCriterion", "ctc_gradient", "ctc_loss", "greedy_decode"]

# log(0): finite, because infinities become NaN in gradients and wherever a mask is multiplied
IMPOSSIBLE = -1e30


def logsumexp(x, axis: int):
    """log(sum(exp(.))) along an axis."""
    largest = x.amax(axis, keepdim=True).detach()
    return largest.squeeze(axis) + (x - largest).exp().sum(axis).log()


def interleave(labels, label_lengths, blank: int):
    """Labels (B, U) with blanks before, between and after them: (B, 2 U + 1); only blanks after its end."""
    inside = torch.arange(labels.shape[1], device=labels.device)[None] < label_lengths[:, None]
    labels = torch.where(inside, labels, torch.full_like(labels, blank))  # mirror: labels after the end
    pairs = torch.stack([torch.full_like(labels, blank), labels], -1)
    pairs = pairs.reshape(labels.shape[0], 2 * labels.shape[1])
    return torch.cat([pairs, labels.new_full((labels.shape[0], 1), blank)], 1)


class Lattice:
    """Common part of the forward and the backward recursion.

    Args: those of :func:`ctc_loss`. S = 2 U + 1 label positions, blanks included.
    """

    def __init__(self, logits, labels, input_lengths, label_lengths, blank: int):
        self.log_p = F.log_softmax(logits, dim=-1)  # (T, B, K)
        self.labels = interleave(labels, label_lengths, blank).long()  # (B, S)
        emitted = self.log_p.gather(2, self.labels[None].expand(logits.shape[0], -1, -1))
        self.emitted = emitted.unbind(0)  # T times (B, S)
        # a label may follow the one before it without a blank between them, unless they are the same
        different = (self.labels[:, 2:] != self.labels[:, :-2]) & (self.labels[:, 2:] != blank)
        penalty = self.masked(different, torch.zeros_like(self.emitted[0][:, 2:]))
        sides = [(min(2, self.labels.shape[1]), 0), (0, min(2, self.labels.shape[1]))]
        # added to the moves by two positions, by their end and by their start
        self.arriving, self.starting = (F.pad(penalty, side, value=IMPOSSIBLE) for side in sides)
        self.input_lengths = input_lengths[:, None]
        end = 2 * label_lengths[:, None]
        self.position = torch.arange(self.labels.shape[1], device=labels.device)[None]
        self.final = (self.position == end) | (self.position == end - 1)  # where an alignment may end

    def masked(self, condition, x):
        return torch.where(condition, x, IMPOSSIBLE)

    def forward(self) -> list:
        """log alpha of every step, (B, S): all prefixes of alignments that end at a position, its emission included."""
        start = self.position == 0  # before the first step: at the first blank
        alpha = self.masked(start, torch.zeros_like(self.emitted[0]))
        steps = []
        for t, emitted in enumerate(self.emitted):
            padded = F.pad(alpha, (2, 0), value=IMPOSSIBLE)
            moves = [alpha, padded[:, 1:-1], padded[:, :-2] + self.arriving]
            alpha = torch.where(t < self.input_lengths, emitted + logsumexp(torch.stack(moves), 0), alpha)
            steps.append(alpha)
        return steps

    def backward(self) -> list:
        """log beta of every step, (B, S): all suffixes of alignments that start at a position, without its emission."""
        final = self.masked(self.final, torch.zeros_like(self.emitted[0]))
        beta = final
        steps = [beta]
        for t in range(len(self.emitted) - 2, -1, -1):
            ahead = beta + self.emitted[t + 1]
            padded = F.pad(ahead, (0, 2), value=IMPOSSIBLE)
            moves = [ahead, padded[:, 1:-1], padded[:, 2:] + self.starting]
            beta = torch.where(t < self.input_lengths - 1, logsumexp(torch.stack(moves), 0), final)
            steps.insert(0, beta)
        return steps

    def losses(self, alpha):
        """From the last alpha: the losses (B,), about 1e30 without an alignment; and 1 where one exists, else 0."""
        losses = -logsumexp(self.masked(self.final, alpha), 1)
        return losses, (losses < -0.1 * IMPOSSIBLE).to(losses.dtype)


def ctc_loss(logits, labels, input_lengths, label_lengths, blank: int = 0, zero_infinity: bool = False):
    """Negative log-likelihood of label sequences.

    Args:
        logits: (T, B, K) float, not normalised; T and K are static.
        labels: (B, U) int, 0-based classes without blanks; entries after the length of a sample are ignored.
        input_lengths: (B,) int, steps that count, 0 to T.
        label_lengths: (B,) int, 0 to U.
        blank: class of the blank.
        zero_infinity: 0 instead of infinity where the input is too short for the labels. The gradient is 0 either way
            (without it, PyTorch's ``F.ctc_loss`` gives NaN).

    Returns:
        (B,) float.

    Source: equations 5 to 8 of the paper.
    """
    lattice = Lattice(logits, labels, input_lengths, label_lengths, blank)
    losses, feasible = lattice.losses(lattice.forward()[-1])
    losses = losses * feasible
    return losses if zero_infinity else losses + (1 / feasible - 1)  # 1 / 0 is the infinity


def ctc_gradient(logits, labels, input_lengths, label_lengths, blank: int = 0):
    """Gradient of the sum of :func:`ctc_loss` with respect to the logits, in closed form: softmax minus occupancy.

    Args: those of :func:`ctc_loss`.

    Returns:
        (T, B, K) float; 0 after the length of a sample and where there is no alignment.

    Source: equations 14 to 16 of the paper.
    """
    lattice = Lattice(logits, labels, input_lengths, label_lengths, blank)
    alpha, beta = lattice.forward(), lattice.backward()
    losses, feasible = lattice.losses(alpha[-1])
    occupancy = torch.exp(torch.stack(alpha, 1) + torch.stack(beta, 1) + losses[:, None, None])  # (B, T, S)
    classes = F.one_hot(lattice.labels, logits.shape[-1]).to(logits.dtype)
    expected = (occupancy @ classes).permute(1, 0, 2)  # (T, B, K)
    counted = torch.arange(logits.shape[0], device=logits.device)[:, None] < lattice.input_lengths[:, 0]
    return (lattice.log_p.exp() - expected) * (counted.to(logits.dtype) * feasible)[..., None]


def greedy_decode(logits, blank: int = 0):
    """The labels of the best alignment: best class of every step, repetitions merged, blanks dropped.

    Args:
        logits: (T, B, K) float; of equal classes the lowest wins.
        blank: class of the blank.

    Returns:
        ids: (B, T) int64, -1 after the end.
        lengths: (B,) int64.
    """
    best = argmax(logits).T  # (B, T)
    previous = F.pad(best[:, :-1], (1, 0), value=-1)
    kept = ((best != blank) & (best != previous)).long()
    slot = kept.cumsum(1) - 1  # where a kept step is written
    moved = (slot[:, None] == torch.arange(best.shape[1], device=best.device)[:, None]).long() * kept[:, None]
    return (moved * (best[:, None] + 1)).sum(-1) - 1, kept.sum(1)


class CTCCriterion(nn.Module):
    """Connectionist temporal classification over a batch.

    Args:
        blank: class of the blank.
        reduction: "mean" divides every loss by its number of labels and averages (PyTorch's rule); "sum" adds them up;
            "mean_batch" averages them.
        zero_infinity: see :func:`ctc_loss`.

    Inputs: ``outputs`` the logits (T, B, K); ``targets``: ``"labels"`` (B, U) int, ``"input_lengths"`` (B,) int,
        ``"label_lengths"`` (B,) int.
    Returns: dict of scalars: ``"ctc"``, ``"total"`` (the same).
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False):
        super().__init__()
        if reduction not in ("mean", "sum", "mean_batch"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'mean_batch', got {reduction!r}")
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, outputs, targets):
        lengths = targets["label_lengths"]
        losses = ctc_loss(outputs, targets["labels"], targets["input_lengths"], lengths, self.blank, self.zero_infinity)
        if self.reduction == "mean":
            losses = losses / lengths.clamp(min=1).to(losses.dtype)
        total = losses.sum() if self.reduction == "sum" else losses.mean()
        return {"ctc": total, "total": total}
