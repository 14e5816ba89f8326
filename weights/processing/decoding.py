"""From CTC probabilities to labels, on the host: prefix beam search, lexicon, probability of a given text.

Greedy decoding, which exports, is in the panels' ``losses/ctc.py``. All functions here take one sample's ``log_p``
(T, K), for instance ``log_softmax(logits[:, i])``, and return labels as tuples of classes without blanks.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

__all__ = [
    "BKTree",
    "edit_distance",
    "greedy",
    "lexicon_decode",
    "log_probability",
    "log_softmax",
    "prefix_beam_search",
]

Labels = tuple[int, ...]


def log_softmax(logits) -> np.ndarray:
    """Log-probabilities (T, K) of logits, in float64."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def greedy(log_p: np.ndarray, blank: int = 0) -> Labels:
    """The labels of the best alignment: best class of every step, repetitions merged, blanks dropped."""
    return tuple(int(k) for k, _ in itertools.groupby(np.asarray(log_p).argmax(-1)) if k != blank)


def log_probability(log_p: np.ndarray, labels: Sequence[int], blank: int = 0) -> float:
    """Log of the probability of a label sequence, over all its alignments; -inf if it does not fit."""
    extended = np.full(2 * len(labels) + 1, blank)
    extended[1::2] = labels
    skips = np.zeros(len(extended), bool)
    skips[2:] = (extended[2:] != blank) & (extended[2:] != extended[:-2])
    alpha = np.full(len(extended) + 2, -np.inf)  # two impossible positions before the first
    alpha[2] = 0
    for row in np.asarray(log_p, np.float64):
        reached = np.logaddexp(alpha[2:], alpha[1:-1])
        alpha[2:] = np.where(skips, np.logaddexp(reached, alpha[:-2]), reached) + row[extended]
    return float(np.logaddexp(alpha[-1], alpha[-2]) if len(labels) else alpha[-1])


def prefix_beam_search(
    log_p: np.ndarray,
    beam_width: int = 10,
    top: int = 1,
    blank: int = 0,
    language_model: Callable[[Labels, int], float] | None = None,
    weight: float = 1.0,
    bonus: float = 0.0,
) -> list[tuple[Labels, float]]:
    """The most probable label sequences, with the probabilities of alignments of one sequence added up.

    Args:
        log_p: (T, K) log-probabilities.
        beam_width: prefixes kept after each step. If none is dropped, the result is exact.
        top: how many to return, at most ``beam_width``.
        blank: class of the blank.
        language_model: ``(prefix, label) -> log-probability`` of a label after a prefix.
        weight: of the language model's log-probability.
        bonus: added for every label, against the language model's bias towards short texts.

    Returns:
        Labels and scores, best first; without language model and bonus a score is a log-probability.

    Source: Graves and Jaitly, ICML 2014, algorithm 1; arXiv:1408.2873.
    """
    prior: dict[Labels, float] = {(): 0.0}  # the language model's and the bonus' score of a prefix
    beam = {
        (): (0.0, -np.inf)
    }  # prefix -> log-probability of its alignments that end in a blank, and in its last label
    classes = [k for k in range(np.shape(log_p)[1]) if k != blank]
    for row in np.asarray(log_p, np.float64):
        ahead: dict[Labels, list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        for prefix, (in_blank, in_label) in beam.items():
            total = np.logaddexp(in_blank, in_label)
            ahead[prefix][0] = np.logaddexp(ahead[prefix][0], total + row[blank])
            if prefix:
                ahead[prefix][1] = np.logaddexp(ahead[prefix][1], in_label + row[prefix[-1]])
            for k in classes:
                longer = (*prefix, k)
                # the same label again is a new one only after a blank
                before = in_blank if prefix and prefix[-1] == k else total
                ahead[longer][1] = np.logaddexp(ahead[longer][1], before + row[k])
                if longer not in prior:
                    model = weight * language_model(prefix, k) if language_model else 0.0
                    prior[longer] = prior[prefix] + model + bonus
        scores = {prefix: np.logaddexp(*pair) + prior[prefix] for prefix, pair in ahead.items()}
        best = sorted(scores, key=lambda prefix: (-scores[prefix], prefix))[:beam_width]
        beam = {prefix: tuple(ahead[prefix]) for prefix in best}
    return [(prefix, float(np.logaddexp(*pair) + prior[prefix])) for prefix, pair in beam.items()][:top]


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Insertions, deletions and replacements that turn one sequence into the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


class BKTree:
    """Words arranged by edit distance, so that those near a query are found without visiting all of them.

    Args:
        words: strings or tuples.

    Source: Burkhard and Keller, Communications of the ACM 16(4), 1973.
    """

    def __init__(self, words: Iterable[Sequence[Hashable]]):
        self.root: tuple | None = None
        for word in words:
            self._add(word)

    def _add(self, word):
        if self.root is None:
            self.root = (word, {})
            return
        node = self.root
        while distance := edit_distance(word, node[0]):
            if distance not in node[1]:
                node[1][distance] = (word, {})
                return
            node = node[1][distance]

    def within(self, query: Sequence[Hashable], distance: int) -> list:
        """The words at most ``distance`` edits away."""
        found, waiting = [], [self.root] if self.root else []
        while waiting:
            word, children = waiting.pop()
            apart = edit_distance(query, word)
            if apart <= distance:
                found.append(word)
            # the triangle inequality leaves only these children
            waiting += [child for d, child in children.items() if abs(d - apart) <= distance]
        return found


def lexicon_decode(log_p: np.ndarray, lexicon: BKTree, distance: int = 3, blank: int = 0) -> Labels:
    """The most probable word of a lexicon near the result of greedy decoding.

    Args:
        log_p: (T, K) log-probabilities.
        lexicon: a tree of label tuples.
        distance: largest number of edits.
        blank: class of the blank.

    Returns:
        The word; the result of greedy decoding if no word is near.

    Source: arXiv:1507.05717, section 2.3.2.
    """
    read = greedy(log_p, blank)
    near = sorted(lexicon.within(read, distance))
    return max(near, key=lambda word: log_probability(log_p, word, blank), default=read)
