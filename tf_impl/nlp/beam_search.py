"""Greedy and beam search over a batch, for any model that scores the next word.

"Google's Neural Machine Translation System", 2016, arXiv:1609.08144 (length penalty); tensor2tensor
``utils/beam_search.py`` (Apache-2.0): fixed-size beams, finished hypotheses apart from live ones.

A model is a function ``step(words, position, state) -> (log_p, state)``: the last word (rows,) int64 of every row and
its position (int, from 0) determine the log-probabilities (rows, V) of the next word. ``state`` is a dictionary of
tensors whose first axis is the rows, for instance a cache; the search repeats and gathers its rows.
"""

import tensorflow as tf

from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k

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
    words, ended, score, found = start, tf.zeros_like(start, tf.bool), 0.0, []
    for position in range(max_length):
        log_p, state = step(words, position, state)
        best, chosen = top_k(log_p, 1)
        score = score + tf.where(ended, tf.zeros_like(best[:, 0]), best[:, 0])
        words = tf.where(ended, tf.cast(pad, start.dtype), chosen[:, 0])
        found.append(words)
        ended = ended | (words == eos)
        if tf.reduce_all(ended):
            break
    found += [tf.fill(start.shape, tf.cast(pad, start.dtype))] * (max_length - len(found))
    return {"words": tf.stack(found, 1)[:, None], "scores": score[:, None]}


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
    samples, rows = len(start), tf.range(len(start), dtype=tf.int64)[:, None]
    state = {name: tf.repeat(value, beams, 0) for name, value in state.items()}
    words = tf.repeat(start, beams)
    live = finished = tf.fill((samples, beams, max_length), tf.cast(pad, start.dtype))
    places = tf.range(max_length)
    for position in range(max_length):
        log_p, state = step(words, position, state)
        vocabulary = log_p.shape[-1]
        log_p = tf.reshape(log_p, (samples, beams, vocabulary))
        if position == 0:
            finished_score = tf.zeros_like(log_p[..., 0]) + NEVER
            # all beams are equal: only the first one counts
            live_score = tf.where(tf.range(beams) == 0, tf.zeros_like(finished_score), finished_score)
        total = live_score[..., None] + log_p
        score, index = top_k(tf.reshape(total, (samples, beams * vocabulary)), 2 * beams)
        beam, word = index // vocabulary, index % vocabulary
        extended = tf.where(places == position, word[..., None], take_rows(live, beam))
        ended = word == eos

        penalised = tf.where(ended, score / length_penalty(position + 1, alpha), NEVER)
        finished_score, index = top_k(tf.concat([finished_score, penalised], 1), beams)
        finished = take_rows(tf.concat([finished, extended], 1), index)

        live_score, index = top_k(tf.where(ended, tf.cast(NEVER, score.dtype), score), beams)
        live, words, beam = take_rows(extended, index), tf.reshape(take_rows(word, index), [-1]), take_rows(beam, index)
        origin = tf.reshape(rows * beams + beam, [-1])
        state = {name: tf.gather(value, origin) for name, value in state.items()}
        possible = live_score[:, 0] / length_penalty(max_length, alpha)
        if tf.reduce_all(finished_score[:, -1] >= possible):
            break
    any_ended = finished_score[:, :1] > NEVER / 2
    live_score = live_score / length_penalty(max_length, alpha)
    return {
        "words": tf.where(any_ended[..., None], finished, live),
        "scores": tf.where(any_ended, finished_score, live_score),
    }
