"""Greedy and beam search over a batch, for any model that scores the next word.

"Google's Neural Machine Translation System", 2016, arXiv:1609.08144 (length penalty); tensor2tensor
``utils/beam_search.py`` (Apache-2.0): fixed-size beams, finished hypotheses apart from live ones.

A model is a function ``step(words, position, state) -> (log_p, state)``: the last word (rows,) int64 of every row and
its position (int, from 0) determine the log-probabilities (rows, V) of the next word. ``state`` is a dictionary of
tensors whose first axis is the rows, for instance a cache; the search repeats and gathers its rows.
"""

import torch

from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import top_k

__all__ = ["beam_search", "greedy_search", "length_penalty"]

NEVER = -1e9  # log-probability of what may not be chosen; finite


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6) ** alpha, by which a log-probability is divided."""
    return ((5 + length) / 6) ** alpha


def greedy_search(step, state, start, max_length: int, eos: int, pad: int) -> dict:
    """The most probable word at every position, until all rows have ended.

    Args:
        step, state: the model, see above.
        start: (N,) int64, the first word, which is not part of the result.
        max_length: maximal number of words, the end included.
        eos, pad: the word that ends a sentence, and the padding after it.

    Returns: dict: ``"words"`` (N, 1, max_length) int64; ``"scores"`` (N, 1), log-probabilities.
    """
    words, ended, score, found = start, torch.zeros_like(start, dtype=torch.bool), 0.0, []
    for position in range(max_length):
        log_p, state = step(words, position, state)
        best, chosen = top_k(log_p, 1)
        score = score + torch.where(ended, 0.0, best[:, 0])
        words = torch.where(ended, pad, chosen[:, 0])
        found.append(words)
        ended = ended | (words == eos)
        if ended.all():
            break
    found += [torch.full_like(start, pad)] * (max_length - len(found))
    return {"words": torch.stack(found, 1)[:, None], "scores": score[:, None]}


def beam_search(step, state, start, max_length: int, eos: int, pad: int, beams: int = 4, alpha: float = 0.6) -> dict:
    """The hypotheses with the highest log-probability divided by :func:`length_penalty`.

    Every step extends the K live hypotheses of each sample by all words and considers the 2 K best: those that end
    compete for the K finished places, the others stay alive. A sample is done when its best live hypothesis,
    at the longest length, cannot beat its worst finished one. Ties go to the lower beam and word.

    Args:
        step, state: the model, see above.
        start: (N,) int64, the first word, which is not part of the result.
        max_length: maximal number of words, the end included.
        eos, pad: the word that ends a sentence, and the padding after it.
        beams: hypotheses K.
        alpha: of the length penalty, 0 or more.

    Returns: dict, best first: ``"words"`` (N, K, max_length) int64; ``"scores"`` (N, K), penalised, -1e9 where fewer
        than K have ended. Samples without a finished hypothesis return their live ones.
    Raises: ValueError if ``beams`` is below 1 or ``alpha`` negative.
    """
    if beams < 1 or alpha < 0:
        raise ValueError(f"beams={beams} must be 1 or more and alpha={alpha} 0 or more")
    samples, rows = len(start), torch.arange(len(start), device=start.device)[:, None]
    state = {name: value.repeat_interleave(beams, 0) for name, value in state.items()}
    words = start.repeat_interleave(beams)
    live = finished = torch.full((samples, beams, max_length), pad, device=start.device)
    places = torch.arange(max_length, device=start.device)
    for position in range(max_length):
        log_p, state = step(words, position, state)
        vocabulary = log_p.shape[-1]
        log_p = log_p.view(samples, beams, vocabulary)
        if position == 0:
            finished_score = torch.full_like(log_p[..., 0], NEVER)
            # all beams are equal: only the first one counts
            live_score = torch.where(torch.arange(beams, device=start.device) == 0, 0.0, finished_score)
        total = live_score[..., None] + log_p
        score, index = top_k(total.flatten(1), 2 * beams)
        beam, word = index // vocabulary, index % vocabulary
        extended = torch.where(places == position, word[..., None], take_rows(live, beam))
        ended = word == eos

        penalised = torch.where(ended, score / length_penalty(position + 1, alpha), NEVER)
        finished_score, index = top_k(torch.cat([finished_score, penalised], 1), beams)
        finished = take_rows(torch.cat([finished, extended], 1), index)

        live_score, index = top_k(torch.where(ended, NEVER, score), beams)
        live, words, beam = take_rows(extended, index), take_rows(word, index).flatten(), take_rows(beam, index)
        origin = (rows * beams + beam).flatten()
        state = {name: value[origin] for name, value in state.items()}
        possible = live_score[:, 0] / length_penalty(max_length, alpha)
        if (finished_score[:, -1] >= possible).all():
            break
    any_ended = finished_score[:, :1] > NEVER / 2
    live_score = live_score / length_penalty(max_length, alpha)
    return {
        "words": torch.where(any_ended[..., None], finished, live),
        "scores": torch.where(any_ended, finished_score, live_score),
    }
