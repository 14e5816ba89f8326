"""The proof is proven: real faults, planted in the TensorFlow twin, are caught and named."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from parity_tests.harness.case import cases
from parity_tests.harness.measure import Proof


def fresh(name):
    """A proof with its own twins, and the TensorFlow one."""
    proof = Proof(cases()[name])
    return proof, proof.twins("float64")[0]


def first(proof, training=False):
    """The first diverging module: its name, and whether what comes into it or what it computes differs."""
    row = next(row for row in proof.trace(training=training) if row["diverges"])
    return row["module"], row["diverges"]


def broken(proof, level):
    """Names of the broken figures of a level, worst first; the level must break."""
    measured = proof.level(level)
    assert not measured.holds
    return [figure.name for figure in measured.broken()]


def batch_moments(x):
    """Mean and biased variance per channel, and nothing is stored."""
    return tf.nn.moments(x, list(range(x.shape.rank - 1)))


def override(layer, function):
    """Replace what one layer computes."""
    object.__setattr__(layer, "call", function)


def test_no_fault_no_alarm():
    proof, _ = fresh("resnet18")
    assert all(not row["diverges"] for row in proof.trace())
    assert proof.level("outputs").holds


def test_epsilon_off_by_a_thousandth():
    proof, tensorflow = fresh("resnet18")
    tensorflow.model.layer2.layers[0].bn1.epsilon = 1.001e-5
    assert broken(proof, "outputs")
    assert first(proof) == ("layer2.0.bn1", "output")


def test_padding_on_one_side():
    proof, tensorflow = fresh("resnet18")
    conv = tensorflow.model.conv1
    override(conv, lambda x: tf.nn.conv2d(tf.pad(x, [[0, 0], [2, 4], [2, 4], [0, 0]]), conv.kernel, 2, "VALID"))
    assert broken(proof, "outputs")
    assert first(proof) == ("conv1", "output")


def test_transposed_square_kernel():
    proof, tensorflow = fresh("resnet18")
    kernel = tensorflow.model.layer1.layers[0].conv2.kernel
    kernel.assign(tf.transpose(kernel, (1, 0, 2, 3)))
    assert broken(proof, "outputs")
    assert first(proof) == ("layer1.0.conv2", "output")


def test_missing_relu():
    proof, tensorflow = fresh("resnet18")
    block = tensorflow.model.layer1.layers[0]

    def without_relu(x, training=False):
        y = block.bn1(block.conv1(x), training=training)
        return tf.nn.relu(block.bn2(block.conv2(y), training=training) + x)

    override(block, without_relu)
    assert broken(proof, "outputs")
    assert first(proof) == ("layer1.0.conv2", "input")


def test_stale_batch_statistics():
    proof, tensorflow = fresh("resnet18")
    object.__setattr__(tensorflow.model.layer1.layers[0].bn2, "_update", batch_moments)
    names = broken(proof, "training")
    assert any("layer1.0.bn2.running_mean" in name for name in names)
    assert all("layer1.0.bn2" in name or "step" in name for name in names[:3])


def test_biased_running_variance():
    proof, tensorflow = fresh("resnet18")
    bn = tensorflow.model.bn1

    def store_the_biased(x):
        mean, variance = batch_moments(x)
        for running, new in ((bn.moving_mean, mean), (bn.moving_variance, variance)):
            running.assign(bn.momentum * tf.convert_to_tensor(running) + (1 - bn.momentum) * new)
        return mean, variance

    object.__setattr__(bn, "_update", store_the_biased)
    assert any("bn1.running_var" in name for name in broken(proof, "training"))


def test_flipped_align_corners():
    proof, tensorflow = fresh("resize_bilinear")
    tensorflow.model.options["align_corners"] = True
    assert "eval.y" in broken(proof, "outputs")


def test_swapped_lstm_gates():
    proof, tensorflow = fresh("crnn")
    weight = tensorflow.model.rnn[0].rnn.weight_ih_l0
    i, f, g, o = tf.split(tf.convert_to_tensor(weight), 4)
    weight.assign(tf.concat((f, i, g, o), 0))
    assert broken(proof, "outputs")
    assert first(proof) == ("rnn.0.rnn", "output")


def test_loss_weight_off_by_a_hundredth():
    proof, tensorflow = fresh("pix2pix")
    tensorflow.criterion.lambda_l1 *= 1.01
    names = broken(proof, "losses")
    assert "G_L1" in names
    assert "G_GAN" not in names


def test_dropped_loss_term():
    proof, tensorflow = fresh("pix2pix")
    complete = tensorflow.criterion.call

    def without_gan(outputs, targets):
        losses = complete(outputs, targets)
        return {**losses, "G": losses["G"] - losses["G_GAN"]}

    override(tensorflow.criterion, without_gan)
    assert broken(proof, "losses") == ["G"]
    assert broken(proof, "gradients")


def test_lost_label_smoothing():
    proof, tensorflow = fresh("mobilenet_v2")
    tensorflow.criterion.label_smoothing = 0.0
    assert "cross_entropy" in broken(proof, "losses")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite(value):
    proof, tensorflow = fresh("resnet18")
    complete = tensorflow.model.fc.call
    override(tensorflow.model.fc, lambda x, training=False: complete(x) + tf.constant([value] + [0.0] * 9, x.dtype))
    assert "eval.logits" in broken(proof, "outputs")


def test_missing_output_key():
    proof, tensorflow = fresh("bert_base_uncased")
    complete = tensorflow.model.call

    def without_relation(*inputs, training=False):
        return {"prediction_logits": complete(*inputs, training=training)["prediction_logits"]}

    override(tensorflow.model, without_relation)
    assert any("seq_relationship_logits (first side lacks it)" in name for name in broken(proof, "outputs"))


def test_order_of_ties():
    proof, tensorflow = fresh("top_k")

    def last_index_first(scores, k):
        values, indices = tf.math.top_k(scores[:, ::-1], k)
        return values, tf.cast(scores.shape[1] - 1 - indices, tf.int64)

    tensorflow.model.function = last_index_first
    names = broken(proof, "outputs")
    assert "eval.indices" in names
    assert "eval.values" not in names


def test_wrong_default_of_the_small_configuration_is_seen_by_the_fingerprint():
    proof, _ = fresh("mobilenet_v2")
    narrower = dataclasses.replace(
        proof.case.references[0], options={"width": 0.9, "dropout": 0.0}, training={}, losses={}
    )
    assert any(figure.relative == np.inf for figure in proof._against(narrower))
