"""CTC in both panels: published numbers, third-party losses, the gradient in closed form, edge cases, decoding."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

import tf_impl.losses.ctc as tf_ctc
import torch_impl.losses.ctc as torch_ctc
from weights.processing import decoding

PANELS = ("tensorflow", "pytorch")


def call(panel: str, function: str, *arrays, **options):
    """A function of one of the panels on numpy arrays."""
    module, tensor = (tf_ctc, tf.constant) if panel == "tensorflow" else (torch_ctc, torch.from_numpy)
    found = getattr(module, function)(*(tensor(np.asarray(array)) for array in arrays), **options)
    return [np.asarray(x) for x in found] if isinstance(found, tuple) else np.asarray(found)


def by_autograd(panel: str, logits, *arrays, **options) -> np.ndarray:
    """Gradient of the sum of the losses on the logits."""
    if panel == "pytorch":
        x = torch.from_numpy(logits.copy()).requires_grad_()
        torch_ctc.ctc_loss(x, *map(torch.from_numpy, arrays), **options).sum().backward()
        return x.grad.numpy()
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf_ctc.ctc_loss(x, *map(tf.constant, arrays), **options))
    return tape.gradient(total, x).numpy()


def pytorchs_own(logits, labels, input_lengths, label_lengths, blank=0, zero_infinity=False):
    """Losses and gradient of ``F.ctc_loss``, differentiated through its log-softmax."""
    x = torch.from_numpy(logits.copy()).requires_grad_()
    arrays = (torch.from_numpy(a) for a in (labels, input_lengths, label_lengths))
    losses = F.ctc_loss(F.log_softmax(x, -1), *arrays, blank, "none", zero_infinity)
    losses.sum().backward()
    return losses.detach().numpy(), x.grad.numpy()


def sample(t=8, b=4, k=5, u=3, seed=0, blank=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k - 1, (b, u))
    labels[labels >= blank] += 1
    input_lengths = np.maximum(t - np.arange(b), 1)
    label_lengths = np.minimum(np.arange(b)[::-1] % (u + 1), input_lengths // 2)
    return 2 * rng.standard_normal((t, b, k)), labels, input_lengths, label_lengths


SHEET = (np.sin(0.37 * np.arange(40)).reshape(5, 2, 4), np.array([[1, 1], [2, 3]]))


@pytest.mark.parametrize("panel", PANELS)
def test_worked_example(panel):
    logits, labels = SHEET
    two = np.array([2, 2])
    found = call(panel, "ctc_loss", logits, labels, np.array([5, 4]), two)
    np.testing.assert_allclose(found, [4.7446860039, 2.8062193505], rtol=0, atol=6e-11)
    found = call(panel, "ctc_loss", logits[:2], labels, two, two)
    np.testing.assert_allclose(found, [np.inf, 2.6096307417], rtol=0, atol=6e-11)


@pytest.mark.parametrize(
    "reduction, expected", [("mean", 1.8877263386), ("sum", 7.5509053544), ("mean_batch", 3.7754526772)]
)
def test_reductions(reduction, expected):
    targets = {"labels": SHEET[1], "input_lengths": np.array([5, 4]), "label_lengths": np.array([2, 2])}
    ours = tf_ctc.CTCCriterion(reduction=reduction, dtype="float64")(
        tf.constant(SHEET[0]), {name: tf.constant(value) for name, value in targets.items()}
    )
    theirs = torch_ctc.CTCCriterion(reduction=reduction)(
        torch.from_numpy(SHEET[0]), {name: torch.from_numpy(value) for name, value in targets.items()}
    )
    for losses in (ours, theirs):
        assert list(losses) == ["ctc", "total"]
        for value in losses.values():
            np.testing.assert_allclose(np.asarray(value), expected, rtol=0, atol=2e-10)


def test_unknown_reduction_is_refused():
    for module in (tf_ctc, torch_ctc):
        with pytest.raises(ValueError, match=r"reduction must be .* got 'average'"):
            module.CTCCriterion(reduction="average")


CASES = {
    "several lengths": sample(),
    "last class is the blank": (*sample(blank=4), 4),
    "blank in the middle": (*sample(blank=2, seed=3), 2),
    "one step": (*sample(t=1, u=1)[:2], np.ones(4, int), np.array([1, 0, 1, 0])),
    "no labels at all": (sample()[0], np.zeros((4, 0), int), np.array([8, 7, 2, 1]), np.zeros(4, int)),
    "empty targets among others": (*sample()[:3], np.array([0, 3, 0, 2])),
    "one repeated label": (sample(t=7)[0], np.full((4, 4), 2), np.full(4, 7), np.array([4, 3, 2, 1])),
    "as long as possible": (
        sample(t=3)[0],
        np.array([[1, 2, 3], [3, 2, 1], [4, 1, 4], [1, 1, 1]]),
        np.full(4, 3),
        np.array([3, 3, 3, 2]),
    ),
    "long": sample(t=90, u=30, k=12),
    "improbable": (40 * sample()[0], *sample()[1:]),
}


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("name", CASES)
def test_against_pytorchs_own(panel, name):
    case, blank = CASES[name][:4], CASES[name][4] if len(CASES[name]) > 4 else 0
    losses, gradient = pytorchs_own(*case, blank=blank)
    np.testing.assert_allclose(call(panel, "ctc_loss", *case, blank=blank), losses, rtol=1e-12, atol=1e-12)
    for found in (by_autograd(panel, *case, blank=blank), call(panel, "ctc_gradient", *case, blank=blank)):
        np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize("panel", PANELS)
def test_against_tensorflows_own(panel):
    logits, labels, input_lengths, label_lengths = sample()
    found = call(panel, "ctc_loss", *map(np.asarray, (logits, labels, input_lengths, label_lengths)))
    valid = np.arange(labels.shape[1]) < label_lengths[:, None]
    theirs = tf.nn.ctc_loss(  # float32 inside; class 0 after the labels is its padding
        np.where(valid, labels, 0), logits.astype(np.float32), label_lengths, input_lengths, blank_index=0
    )
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-5)


@pytest.mark.parametrize("panel", PANELS)
def test_what_lies_behind_the_lengths_is_not_read(panel):
    logits, labels, input_lengths, label_lengths = sample()
    expected = by_autograd(panel, logits, labels, input_lengths, label_lengths)
    for i in range(4):
        labels[i, label_lengths[i] :] = -1 if i % 2 else 99
        logits[input_lengths[i] :, i] = 1e4
    np.testing.assert_array_equal(by_autograd(panel, logits, labels, input_lengths, label_lengths), expected)
    assert not expected[5:, 3].any() and not expected[7:, 1].any()


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_too_short_inputs(panel, precision):
    """Three steps hold neither four labels nor two equal pairs; no steps hold only the empty target."""
    logits = sample(t=3, b=5)[0].astype(precision)
    labels = np.array([[1, 2, 3, 4], [1, 1, 1, 2], [1, 2, 3, 3], [1, 1, 2, 2], [2, 2, 1, 1]])
    arrays = labels, np.array([3, 3, 3, 0, 0]), np.array([4, 3, 3, 0, 1])
    losses = call(panel, "ctc_loss", logits, *arrays)
    assert np.isinf(losses).tolist() == [True, True, False, False, True] and losses[3] == 0
    zeroed = call(panel, "ctc_loss", logits, *arrays, zero_infinity=True)
    np.testing.assert_array_equal(zeroed, np.where(np.isinf(losses), 0, losses))
    for found in (
        by_autograd(panel, logits, *arrays),
        by_autograd(panel, logits, *arrays, zero_infinity=True),
        call(panel, "ctc_gradient", logits, *arrays),
    ):
        assert np.isfinite(found).all() and not found[:, [0, 1, 3, 4]].any() and found[:, 2].any()


def test_gradient_sums_to_zero_over_the_classes():
    for panel in PANELS:
        np.testing.assert_allclose(call(panel, "ctc_gradient", *sample()).sum(-1), 0, atol=1e-12)


@pytest.mark.parametrize("panel", PANELS)
def test_probabilities_of_all_label_sequences_add_up_to_one(panel):
    logits = sample(t=4, b=1, k=3)[0]
    total = 0.0
    for length in range(5):
        for labels in itertools.product((1, 2), repeat=length):
            arrays = np.array([labels], int).reshape(1, length), np.array([4]), np.array([length])
            total += np.exp(-call(panel, "ctc_loss", logits, *arrays)[0])
    np.testing.assert_allclose(total, 1, rtol=1e-12)


# decoding


def collapse(path, blank=0):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def brute_force(log_p) -> dict:
    """Log-probability of every label sequence, from all K^T paths."""
    found = {}
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        labels = collapse(path)
        score = sum(log_p[t, k] for t, k in enumerate(path))
        found[labels] = np.logaddexp(found.get(labels, -np.inf), score)
    return found


@pytest.mark.parametrize("panel", PANELS)
def test_greedy_decoding(panel):
    paths = np.array([[0, 1, 1, 0, 1, 2], [3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0], [1, 2, 3, 1, 2, 3]])
    logits = np.eye(4)[paths.T] - 5
    ids, lengths = call(panel, "greedy_decode", logits)
    expected = [collapse(path) for path in paths]
    assert lengths.tolist() == [3, 1, 0, 6]
    assert ids.tolist() == [[*e, *[-1] * (6 - len(e))] for e in expected]
    assert ids.dtype == lengths.dtype == np.int64
    ids, lengths = call(panel, "greedy_decode", logits, blank=3)
    assert [tuple(row[:n]) for row, n in zip(ids, lengths)] == [collapse(path, 3) for path in paths]


@pytest.mark.parametrize("panel", PANELS)
def test_greedy_decoding_of_one_step_and_of_ties(panel):
    ids, lengths = call(panel, "greedy_decode", np.array([[[0.0, 0.0, 0.0], [-1.0, 2.0, 2.0]]]))
    assert ids.tolist() == [[-1], [1]] and lengths.tolist() == [0, 1]


def log_probabilities(t=5, k=4, seed=0):
    return decoding.log_softmax(2 * np.random.default_rng(seed).standard_normal((t, k)))


@pytest.mark.parametrize("seed", range(5))
def test_beam_search_finds_the_best_of_all(seed):
    log_p = log_probabilities(seed=seed)
    expected = sorted(brute_force(log_p).items(), key=lambda item: -item[1])[:5]
    found = decoding.prefix_beam_search(log_p, beam_width=1000, top=5)
    assert [labels for labels, _ in found] == [labels for labels, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], rtol=1e-12)


def test_beam_search_beats_greedy_where_alignments_add_up():
    """Blank is the best class of both steps (0.36), yet "a" has more alignments (0.64)."""
    log_p = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert decoding.greedy(log_p) == ()
    (labels, score), (empty, rest) = decoding.prefix_beam_search(log_p, beam_width=4, top=2)
    assert labels == (1,) and empty == ()
    np.testing.assert_allclose(np.exp([score, rest]), [0.64, 0.36])


def test_narrow_beam_never_claims_more_than_there_is():
    log_p = log_probabilities(t=6)
    exact = brute_force(log_p)
    for width in (1, 2, 4):
        for labels, score in decoding.prefix_beam_search(log_p, beam_width=width, top=width):
            assert score <= exact[labels] + 1e-12


def test_beam_search_listens_to_a_language_model():
    log_p = np.log([[0.1, 0.5, 0.4], [0.8, 0.1, 0.1], [0.1, 0.45, 0.45]])
    plain = decoding.prefix_beam_search(log_p)[0][0]

    def model(prefix, label):
        return np.log(0.99 if label == 2 else 0.01)

    assert plain[0] == 1
    assert decoding.prefix_beam_search(log_p, language_model=model, weight=1.0)[0][0] == (2, 2)
    assert decoding.prefix_beam_search(log_p, language_model=model, weight=0.0)[0][0] == plain
    longest = decoding.prefix_beam_search(log_p, beam_width=100, bonus=50.0)[0][0]
    assert len(longest) == 3


@pytest.mark.parametrize("panel", PANELS)
def test_log_probability_is_minus_the_loss(panel):
    logits, labels, input_lengths, label_lengths = sample()
    losses = call(panel, "ctc_loss", logits, labels, input_lengths, label_lengths)
    for i in range(4):
        log_p = decoding.log_softmax(logits[: input_lengths[i], i])
        np.testing.assert_allclose(
            decoding.log_probability(log_p, labels[i, : label_lengths[i]]), -losses[i], rtol=1e-12
        )


def test_log_probability_of_impossible_labels():
    assert decoding.log_probability(log_probabilities(t=2), (1, 1)) == -np.inf


def test_edit_distance():
    for a, b, expected in [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abc", "abc", 0),
    ]:
        assert decoding.edit_distance(a, b) == decoding.edit_distance(b, a) == expected


def test_tree_finds_what_a_scan_finds():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abc"), rng.integers(1, 7))) for _ in range(200)]
    tree = decoding.BKTree(words)
    for query in words[:20]:
        for distance in range(4):
            assert sorted(tree.within(query, distance)) == sorted(
                {w for w in words if decoding.edit_distance(w, query) <= distance}
            )


def test_lexicon_decoding_chooses_the_most_probable_word_nearby():
    log_p = decoding.log_softmax(6 * np.eye(5)[[0, 1, 1, 0, 3, 3, 2]])  # reads (1, 3, 2)
    assert decoding.greedy(log_p) == (1, 3, 2)
    words = [(1, 2), (1, 2, 2), (1, 3, 4), (4, 4, 4, 4, 4, 4, 4)]
    expected = max(words[:3], key=lambda word: decoding.log_probability(log_p, word))
    assert decoding.lexicon_decode(log_p, decoding.BKTree(words)) == expected
    assert decoding.lexicon_decode(log_p, decoding.BKTree(words[3:])) == (1, 3, 2), "nothing is near: as read"
    assert decoding.lexicon_decode(log_p, decoding.BKTree([(1, 3, 2), *words])) == (1, 3, 2)
