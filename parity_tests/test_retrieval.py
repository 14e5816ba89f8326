"""Pools, losses and re-ranking of image retrieval against literal numbers."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.global_pooling as tf_pools
import torch_impl.layers.global_pooling as torch_pools
from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_metric import BOTH, built, f, near
from weights import catalog
from weights.processing.retrieval.reranking import rerank
from weights.seeded import seeded

POOLS = {TensorFlow: tf_pools, PyTorch: torch_pools}
RERANKED = ["k1_6_k2_3_lambda_0.3", "k1_4_k2_1_lambda_0.3", "k1_8_k2_4_lambda_0.0", "k1_5_k2_2_lambda_0.7"]


def literal(file):
    expected = fingerprints.load(file)
    return (
        {name: np.reshape(np.asarray(v["data"], np.float64), v["shape"]) for name, v in expected[part].items()}
        for part in ("inputs", "outputs")
    )


def pooled(panel, name, x, **options):
    """Vectors (N, C) of maps (N, C, H, W), and the function that makes them, in the panel's layout."""
    pool = getattr(POOLS[panel], name)
    if panel is PyTorch:
        return pool(torch.tensor(x), **options).numpy()
    return pool(tf.constant(x.transpose(0, 2, 3, 1)), **options).numpy()


@BOTH
@pytest.mark.parametrize("shape", ["map", "square", "tall"])
def test_pools(panel, shape):
    inputs, outputs = literal("cirtorch_pooling_losses")
    x = inputs[shape]
    for name, theirs, options in (
        ("mac", "mac", {}),
        ("spoc", "spoc", {}),
        ("gem", "gem3", {}),
        ("gem", "gem4.6", {"p": 4.6}),
        ("rmac", "rmac_L3", {"levels": 3}),
        ("rmac", "rmac_L2", {"levels": 2}),
    ):
        near(pooled(panel, name, x, **options), outputs[f"{shape}.{theirs}"][:, :, 0, 0])
    found = pooled(panel, "regional", x, pool=POOLS[panel].gem, levels=2)
    near(found, outputs[f"{shape}.roipool_gem_L2"][..., 0, 0])


@BOTH
def test_pools_of_fast_reid(panel):
    inputs, outputs = literal("fastreid_heads_losses")
    near(pooled(panel, "gem", inputs["map"]), outputs["GeneralizedMeanPooling"][:, :, 0, 0])
    near(pooled(panel, "gem", inputs["map"]), outputs["GeneralizedMeanPoolingP"][:, :, 0, 0])
    near(pooled(panel, "spoc", inputs["map"]), outputs["FastGlobalAvgPool"][:, :, 0, 0])
    near(pooled(panel, "spoc", inputs["map"]).clip(0, 1), outputs["ClipGlobalAvgPool"][:, :, 0, 0])


@BOTH
def test_vectors(panel):
    wave = np.abs(f(4, 77, 0.37, 0.11)).reshape(1, 4, 7, 11)
    expected = [0.7495986689, 0.7496398312, 0.7499793111, 0.7506833218]
    np.testing.assert_allclose(pooled(panel, "gem", wave)[0], expected, rtol=1e-9)
    wave = np.abs(f(4, 64, 0.37, 0.11)).reshape(1, 4, 8, 8)
    expected = [7.4854065589, 7.4855933576, 7.5549531783, 7.4227008021]
    np.testing.assert_allclose(pooled(panel, "rmac", wave)[0], expected, rtol=1e-9)


@BOTH
def test_gradient_of_the_generalised_mean(panel):
    inputs, outputs = literal("cirtorch_pooling_losses")
    if panel is PyTorch:
        x = torch.tensor(inputs["map"], requires_grad=True)
        found = torch.autograd.grad(torch_pools.gem(x).sum(), x)[0].numpy()
    else:
        x = tf.constant(inputs["map"].transpose(0, 2, 3, 1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf_pools.gem(x))
        found = tape.gradient(total, x).numpy().transpose(0, 3, 1, 2)
    near(found, outputs["map.gem3.grad"])


@BOTH
def test_unit_vectors(panel):
    inputs, outputs = literal("cirtorch_pooling_losses")
    tensor = torch.tensor if panel is PyTorch else tf.constant
    found, expected = np.asarray(POOLS[panel].l2n(tensor(inputs["x"]))), outputs["l2n"]
    near(found, expected)


@BOTH
@pytest.mark.parametrize("model, name", [("tuple_contrastive", "contrastive0.7"), ("tuple_triplet", "triplet0.1")])
def test_losses_of_tuples(panel, model, name):
    inputs, outputs = literal("cirtorch_pooling_losses")
    x, targets = {"embeddings": inputs["x"]}, {"labels": inputs["labels"].astype(np.int64)}
    criterion = built(panel, model, {"size": 4}, {})
    near(criterion.losses(x, targets)["total"], outputs[name])
    near(criterion.gradients(x, targets, True)["input.embeddings"], outputs[f"{name}.grad"])


@BOTH
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_gradients_of_netvlad(panel, version):
    """Of the stored probe: the output times the first numbers of the map."""
    expected, entry = fingerprints.load(f"netvlad_{version}"), catalog.get(f"netvlad_{version}")
    x = fingerprints.inputs_of(expected)["map"]
    layer = panel(entry, {"num_clusters": 8, "dim": 16}, example={"x": x})
    layer.load(seeded(layer.shapes()))
    probe, wanted = x.ravel()[:128], layer.trainable()
    (given,) = layer.tensors({"x": x}).values()
    if panel is PyTorch:
        total = (layer.model(given) * torch.tensor(probe)).sum()
        found = torch.autograd.grad(total, list(wanted.values()))
    else:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer.model(given) * probe)
        found = tape.gradient(total, [variable.value for variable, _ in wanted.values()])
    near(float(total), expected["loss"]["terms"]["probe"])
    for name, gradient in zip(wanted, found, strict=True):
        norm, _ = expected["loss"]["gradients"][name]
        assert np.linalg.norm(np.asarray(gradient)) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("name", RERANKED)
def test_reranking(name):
    inputs, outputs = literal("kreciprocal_reranking")
    k1, k2, weight = name.replace("k1_", "").replace("k2_", "").replace("lambda_", "").split("_")
    found = rerank(inputs["q_g"], inputs["q_q"], inputs["g_g"], int(k1), int(k2), float(weight))
    near(found, outputs[name])


def test_reranking_of_the_sheet():
    x = f(14, 6, 1.9, 0.11)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = np.sqrt(np.maximum(2 - 2 * x @ x.T, 0))
    found = rerank(d[:4, 4:], d[:4, :4], d[4:, 4:], 4, 2, 0.3)[0]
    expected = [0.781377, 0.436937, 0.472578, 0.825959, 1.0, 0.840550, 0.480503, 0.007161, 0.679988, 0.974564]
    np.testing.assert_allclose(found, expected, atol=1e-6)
