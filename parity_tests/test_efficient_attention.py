"""Linear, FAVOR+, LSH and window attention, reversible layers: the references' numbers, and what each promises."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.linear_attention as tf_linear
import tf_impl.layers.lsh_attention as tf_lsh
import tf_impl.layers.reversible as tf_reversible
import torch_impl.layers.linear_attention as torch_linear
import torch_impl.layers.lsh_attention as torch_lsh
import torch_impl.layers.reversible as torch_reversible
from parity_tests.cases.nlp.transformer import padding
from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")

PANELS = (TensorFlow, PyTorch)
LINEAR, LSH = (tf_linear, torch_linear), (tf_lsh, torch_lsh)
TENSOR = (tf.constant, torch.tensor)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])


def wave(shape, step, start=0.11):
    return np.sin(step * np.arange(int(np.prod(shape))) + start).reshape(shape)


def apply(which, function, *arrays, **options):
    """A function of one panel on arrays."""
    return np.asarray(function(*(None if x is None else TENSOR[which](x) for x in arrays), **options))


def built(which, model, **options):
    panel = PANELS[which](catalog.get(model), options)
    panel.load(seeded(panel.shapes(), panel.aliases()), strict=False)
    return panel


# features


QKV = [wave((1, 2, 6, 4), step) for step in (0.37, 0.53, 0.71)]
PROJECTION = 1.5 * wave((8, 4), 0.9, 0.4)


@BOTH
def test_check_values_of_favor(which):
    found = apply(which, LINEAR[which].favor_attention, *QKV, PROJECTION)
    assert found.sum() == pytest.approx(2.4234081825, abs=1e-9)
    expected = [0.2424274165, 0.2301850639, 0.1066997373, -0.0683510380]
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=0, atol=1e-9)
    found = apply(which, LINEAR[which].favor_attention, *QKV, PROJECTION, causal=True)
    assert found.sum() == pytest.approx(3.4394626460, abs=1e-9)
    expected = [-0.1363758648, -0.1084450576, -0.0281053299, 0.0658170370]
    np.testing.assert_allclose(found[0, 1, 5], expected, rtol=0, atol=1e-9)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def features(x, projection, kernel, keys, masked=None):
    """What the reference computes, written out."""
    x = x * x.shape[-1] ** -0.25
    exponent = np.einsum("nhtd,rd->nhtr", x, projection)
    if kernel == "relu":
        return np.maximum(exponent, 0) + 0.001
    seen = exponent if masked is None else np.where(masked, -np.inf, exponent)
    largest = seen.max((-2, -1) if keys else -1, keepdims=True)
    return (np.exp(exponent - (x**2).sum(-1, keepdims=True) / 2 - largest) + 1e-4) / np.sqrt(len(projection))


@BOTH
@pytest.mark.parametrize("mask_keys", [True, False])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", ["softmax", "relu", "elu"])
def test_linear_attention_is_its_dense_form(kernel, causal, mask_keys, which):
    """Weights of all pairs, over more than one chunk, with padding."""
    q, k, v = normal(2, 2, 70, 8), normal(2, 2, 70, 8, seed=1), normal(2, 2, 70, 5, seed=2)
    projection, masked = normal(16, 8, seed=3), padding(2, 70)
    pad = masked[:, None, :, None]
    if kernel == "elu":
        found = apply(which, LINEAR[which].linear_attention, q, k, v, masked, causal=causal)
        left, right = (np.where(x > 0, x, np.expm1(x)) + 1 for x in (q, k))
        mask_keys, eps = True, 1e-6
    else:
        options = {"kernel": kernel, "causal": causal, "mask_keys": mask_keys}
        found = apply(which, LINEAR[which].favor_attention, q, k, v, projection, masked, **options)
        left = features(q, projection, kernel, False)
        right = features(k, projection, kernel, True, pad if mask_keys else None)
        eps = 1e-6 * left.sum(-1, keepdims=True) if causal else 0
    if mask_keys:
        right = np.where(pad, 0, right)
    weights = np.einsum("nhtr,nhsr->nhts", left, right)
    if causal:
        weights = np.tril(weights)
    expected = weights @ np.where(pad, 0, v) / (weights.sum(-1, keepdims=True) + eps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@BOTH
def test_no_key_gives_zero_and_padding_changes_nothing(which):
    q, k, v, projection = (
        normal(2, 1, 6, 8),
        normal(2, 1, 6, 8, seed=1),
        normal(2, 1, 6, 4, seed=2),
        normal(16, 8, seed=3),
    )
    masked = np.array([[False] * 4 + [True] * 2, [True] * 6])
    found = apply(which, LINEAR[which].favor_attention, q, k, v, projection, masked)
    np.testing.assert_array_equal(found[1], 0)
    other = k.copy()
    other[0, :, 4:] = 50.0  # would be the largest exponent
    np.testing.assert_allclose(
        apply(which, LINEAR[which].favor_attention, q, other, v, projection, masked), found, rtol=1e-13
    )
    with pytest.raises(ValueError, match="kernel='elu' must be 'softmax' or 'relu'"):
        apply(which, LINEAR[which].favor_attention, q, k, v, projection, kernel="elu")


@BOTH
@pytest.mark.parametrize("scaling", [0, 1])
def test_rows_of_a_block_are_orthogonal(scaling, which):
    blocks, lengths = normal(3, 8, 8), normal(20, 8, seed=1)
    rows = apply(which, LINEAR[which].orthogonal_projection, blocks, lengths, scaling=scaling)
    for block in (rows[:8], rows[8:16], rows[16:]):
        product = block @ block.T
        np.testing.assert_allclose(product, np.diag(np.diag(product)), rtol=0, atol=1e-12)
    expected = np.linalg.norm(lengths, axis=1) if scaling == 0 else np.full(20, 8**0.5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), expected, rtol=1e-12)
    directions = np.linalg.qr(blocks)[0].transpose(0, 2, 1).reshape(-1, 8)[:20]
    np.testing.assert_allclose(rows / expected[:, None], directions, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="scaling=2 must be 0 or 1"):
        apply(which, LINEAR[which].orthogonal_projection, blocks, lengths, scaling=2)


@BOTH
def test_more_features_come_nearer_to_the_softmax(which):
    """The mean error over seeds falls with their number."""
    q, k, v = (normal(1, 2, 24, 8, seed=i) / (1 if i == 2 else 2) for i in range(3))
    scores = np.einsum("nhtd,nhsd->nhts", q, k) / np.sqrt(8)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    exact = weights @ v

    def error(rows):
        found = []
        for seed in range(12):
            draws = normal(rows // 8, 8, 8, seed=seed), normal(rows, 8, seed=100 + seed)
            projection = apply(which, LINEAR[which].orthogonal_projection, *draws)
            found.append(np.linalg.norm(apply(which, LINEAR[which].favor_attention, q, k, v, projection) - exact))
        return np.mean(found) / np.linalg.norm(exact)

    errors = [error(rows) for rows in (16, 64, 256)]
    assert errors[0] > 1.4 * errors[1] > 1.4 * 1.4 * errors[2] and errors[2] < 0.12


# hashing


@BOTH
def test_check_values_of_the_hash(which):
    qk, v, rotations = wave((1, 16, 8), 0.83), wave((1, 16, 8), 0.59), wave((8, 2, 2), 1.37, 0.3)
    expected = {
        False: (0.4548457468, [0.2174064973, 0.1788606272, 0.0798386447, -0.0461782718]),
        True: (2.8705838159, [0.4322251995, 0.4856310054, 0.3748359154, 0.1373018148]),
    }
    for causal, (total, row) in expected.items():
        given = [TENSOR[which](x) for x in (qk, v, rotations)]
        found = LSH[which].lsh_attention(*given, bucket_size=4, causal=causal)
        assert float(np.asarray(found["output"]).sum()) == pytest.approx(total, abs=1e-9)
        np.testing.assert_allclose(np.asarray(found["output"])[0, 5, :4], row, rtol=0, atol=1e-9)
    buckets = "2211110000333332" + "4447777666655555"
    assert "".join(map(str, np.asarray(found["buckets"])[0])) == buckets


REFORMER_FILE = fingerprints.load("reformer_lsh_attention")


def stored(part, name):
    described = REFORMER_FILE[part][name]
    return np.asarray(described["data"], np.float64).reshape(described["shape"])


def gradient(which, function, *arrays):
    """Of sum(output * sin(flat index)) for all inputs, and the output."""
    probe = None
    if which:
        given = [torch.tensor(x, requires_grad=True) for x in arrays]
        output = function(*given)
        probe = torch.tensor(np.sin(np.arange(output.numel())).reshape(tuple(output.shape)))
        return output.detach().numpy(), [g.numpy() for g in torch.autograd.grad((output * probe).sum(), given)]
    given = [tf.constant(x) for x in arrays]
    with tf.GradientTape() as tape:
        for x in given:
            tape.watch(x)
        output = function(*given)
        probe = np.sin(np.arange(output.shape.num_elements())).reshape(output.shape)
        total = tf.reduce_sum(output * probe)
    return output.numpy(), [g.numpy() for g in tape.gradient(total, given)]


@BOTH
@pytest.mark.parametrize("variant", ["plain", "causal", "causal_nodup", "nodup", "masked"])
def test_hash_attention_is_reformer_pytorchs(variant, which):
    """Rows that see themselves alone differ by what the reference loses in float32 at a score of -5e4: 4e-3."""
    options = {"causal": "causal" in variant, "allow_duplicates": "nodup" not in variant}
    padding_mask = TENSOR[which](stored("inputs", "mask") == 0) if variant == "masked" else None
    rotations = TENSOR[which](stored("inputs", "rotations"))

    def attention(qk, v):
        found = LSH[which].lsh_attention(qk, v, rotations, padding_mask, bucket_size=4, **options)
        np.testing.assert_array_equal(found["buckets"], stored("outputs", f"{variant}.buckets"))
        return found["output"]

    output, gradients = gradient(which, attention, stored("inputs", "qk"), stored("inputs", "v"))
    alone = np.zeros((2, 16), bool)
    alone[:, 0] = options["causal"]
    if variant == "masked":
        alone = stored("inputs", "mask") == 0
    expected = stored("outputs", variant)
    np.testing.assert_allclose(output[~alone], expected[~alone], rtol=0, atol=3e-6)
    np.testing.assert_allclose(output[alone], expected[alone], rtol=4e-3, atol=1e-6)
    for name, found in zip(("grad_qk", "grad_v"), gradients, strict=True):
        error = np.abs(found - stored("outputs", f"{variant}.{name}"))
        assert error.max() < (4e-3 if alone.any() else 2e-5), (name, error.max())


@BOTH
def test_full_attention_is_reformer_pytorchs(which):
    found = apply(which, LSH[which].shared_qk_attention, stored("inputs", "qk"), stored("inputs", "v"), causal=True)
    np.testing.assert_allclose(found, stored("outputs", "full_qk_causal"), rtol=0, atol=1e-6)


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_two_buckets_and_one_round_see_everything(causal, which):
    qk, v, rotations, masked = normal(2, 16, 8), normal(2, 16, 5, seed=1), normal(8, 1, 1, seed=2), padding(2, 16)
    given = [TENSOR[which](x) for x in (qk, v, rotations, masked)]
    found = np.asarray(LSH[which].lsh_attention(*given, bucket_size=8, causal=causal)["output"])
    expected = apply(which, LSH[which].shared_qk_attention, qk, v, masked, causal=causal)
    np.testing.assert_allclose(found[~masked], expected[~masked], rtol=0, atol=1e-13)


@BOTH
def test_sizes_that_do_not_fit_are_refused(which):
    qk, rotations = np.zeros((1, 16, 8)), np.zeros((8, 2, 2))
    for length, bucket_size in ((14, 4), (16, 8), (16, 3)):
        with pytest.raises(ValueError, match=rf"length {length} must be a multiple of 2 bucket_size={2 * bucket_size}"):
            LSH[which].lsh_attention(
                *(TENSOR[which](x) for x in (qk[:, :length], qk[:, :length], rotations)), bucket_size=bucket_size
            )


# windows


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_windows_are_a_mask_on_all_pairs(causal, which):
    """The angle of a pair depends on its distance; without causality the reference shifts it by one window."""
    inputs = {name: normal(2, 2, 11, 8, seed=i) for i, name in enumerate(("query", "key", "value"))}
    inputs["padding_mask"] = padding(2, 11)
    panel = built(which, "window_attention", dim=8, window_size=4, causal=causal)
    place = np.arange(11)
    angles = np.subtract.outer(place, place)[..., None] + 4 * (not causal)
    angles = angles * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    q, k = (inputs[name] for name in ("query", "key"))
    (a, b), (c, d) = ((x[..., :4], x[..., 4:]) for x in (q, k))
    same = np.einsum("nhte,nhse->nhtse", a, c) + np.einsum("nhte,nhse->nhtse", b, d)
    turned = np.einsum("nhte,nhse->nhtse", a, d) - np.einsum("nhte,nhse->nhtse", b, c)
    scores = (same * np.cos(angles) + turned * np.sin(angles)).sum(-1) / np.sqrt(8)
    apart = np.subtract.outer(place // 4, place // 4)
    seen = (np.abs(apart) <= 1) & ~inputs["padding_mask"][:, None, None]
    if causal:
        seen = seen & (np.subtract.outer(place, place) >= 0)
    weights = np.where(seen, np.exp(scores), 0)
    expected = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ inputs["value"]
    np.testing.assert_allclose(panel.outputs(inputs)["output"], expected, rtol=0, atol=1e-6)  # frequencies in float32


# reversible layers


class TorchNet(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layer = torch.nn.Linear(dim, dim)

    def forward(self, x, given=()):
        return torch.tanh(self.layer(x) + sum(given))


class KerasNet(keras.layers.Layer):
    def __init__(self, dim):
        super().__init__()
        self.layer = keras.layers.Dense(dim)

    def call(self, x, given=()):
        return tf.tanh(self.layer(x) + sum(given))


def reversible(which, depth):
    if which:
        return torch_reversible.ReversibleSequence([(TorchNet(6), TorchNet(6)) for _ in range(depth)]).double()
    sequence = tf_reversible.ReversibleSequence([(KerasNet(6), KerasNet(6)) for _ in range(depth)])
    sequence(tf.zeros((1, 6), tf.float64), tf.zeros((1, 6), tf.float64), [()] * depth)
    return sequence


@BOTH
def test_reversible_layers_can_be_inverted(which):
    sequence = reversible(which, 4)
    x1, x2, more = (TENSOR[which](normal(3, 6, seed=i)) for i in range(3))
    given = [(more,)] * 4
    y1, y2 = sequence(x1, x2, given)
    back = sequence.inverse(y1, y2, given)
    for found, expected in zip(back, (x1, x2), strict=True):
        np.testing.assert_allclose(found.detach() if which else found, expected, rtol=0, atol=1e-14)
    assert np.abs(np.asarray(y1.detach() if which else y1) - np.asarray(x1)).max() > 0.1


def plain(sequence, x1, x2, given):
    """The same layers, of which every activation is kept."""
    for block, more in zip(sequence.blocks, given):
        x1, x2 = block(x1, x2, more)
    return x1, x2


@BOTH
@pytest.mark.parametrize("graph", [False, True])
def test_gradients_through_the_inverse_are_those_of_the_plain_layers(graph, which):
    sequence = reversible(which, 3)
    arrays = [normal(3, 6, seed=i) for i in range(3)]
    given = [(TENSOR[which](arrays[2]),)] * 3
    found = []
    for run in (sequence, lambda *inputs: plain(sequence, *inputs)):
        if which:
            inputs = [torch.tensor(x, requires_grad=True) for x in arrays[:2]]
            y1, y2 = run(*inputs, given)
            wanted = [*inputs, *sequence.parameters()]
            found.append(torch.autograd.grad((y1 * y2.cos()).sum(), wanted))
        else:
            inputs = [tf.constant(x) for x in arrays[:2]]

            def gradients(x1, x2, run=run):
                with tf.GradientTape() as tape:
                    tape.watch((x1, x2))
                    y1, y2 = run(x1, x2, given)
                    total = tf.reduce_sum(y1 * tf.cos(y2))
                return tape.gradient(total, [x1, x2, *(v.value for v in sequence.trainable_variables)])

            found.append((tf.function(gradients) if graph else gradients)(*inputs))
    assert len(found[0]) == 2 + 3 * 4
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


def test_pytorch_keeps_no_activation_of_the_blocks():
    kept = {}
    for depth in (1, 5):
        sequence, x = reversible(1, depth), torch.tensor(normal(3, 6), requires_grad=True)
        for name, run in (("ours", sequence), ("plain", lambda *inputs, s=sequence: plain(s, *inputs))):
            sizes = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
                run(x, x, [()] * depth)
            kept[name, depth] = sum(sizes)
    assert kept["ours", 1] == kept["ours", 5] == 2 * 18
    assert kept["plain", 5] > 4 * kept["plain", 1]
