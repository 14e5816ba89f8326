"""The losses of metric learning, and their gradients, against literal numbers of other implementations."""

import numpy as np
import pytest

from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog

BOTH = pytest.mark.parametrize("panel", [TensorFlow, PyTorch], ids=["tensorflow", "pytorch"])
SIZE = {"num_classes": 4, "embedding_size": 6}
UNIT = {"normalize": True, "reduction": "active"}


def f(rows, columns, a, b):
    return np.sin(a * np.arange(rows * columns) + b).reshape(rows, columns)


N = np.arange(48)
E = (np.sin(0.7 * N + 0.3) + 0.5 * np.cos((1.3 * N * N) % 7)).reshape(8, 6)
W = {"criterion.weight": np.cos(0.9 * np.arange(24) + 0.1).reshape(4, 6)}
LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3])
WAVES, CENTERS = f(8, 6, 0.7, 0.3), {"criterion.centers": f(4, 6, 0.9, 0.1)}
MEMORY = {"criterion.queue_idx": [0], "criterion.queue_count": [0]}

VECTORS = [  # model, options, tensors, embeddings, value in float64
    ("triplet_hard", {}, {}, E, 2.5152808207),
    ("triplet_hard", {"soft": True, "margin": 0.0}, {}, E, 2.3334450863),
    ("triplet_all", {"margin": 0.05, **UNIT}, {}, E, 0.5548393381),
    ("triplet_weighted", {}, {}, WAVES, 2.5287478450),
    ("triplet_hard", {}, {}, WAVES, 3.2635756850),
    ("center_loss", SIZE, CENTERS, WAVES, 2.8884959096),
    *(("l_softmax", {**SIZE, "m": m}, W, E, v) for m, v in ((1, 2.3579433548), (2, 5.7820340638), (4, 11.9494504199))),
    *(("sphereface", {**SIZE, "m": m}, W, E, v) for m, v in ((1, 1.7797394897), (2, 3.7305392774), (4, 7.2945325321))),
    ("cosface", SIZE, W, E, 61.9028796784),
    ("am_softmax", {**SIZE, "margin": 0.4}, W, E, 30.3300923887),
    ("arcface", SIZE, W, E, 63.0286706705),
    ("arcface", {**SIZE, "fallback": "monotone"}, W, E, 64.6580802746),
    ("arcface", {**SIZE, "fallback": "monotone", "margin": np.deg2rad(28.6)}, W, E, 64.6203879866),
    ("circle", {"margin": 0.4, "gamma": 80.0}, {}, E, 198.9329409042),
    ("circle", {"margin": 0.25, "gamma": 32.0}, {}, E, 85.8481539407),
    ("fastap", {}, {}, E, 0.8257751749),
    ("cross_batch_memory", {"memory_size": 16, "embedding_size": 6, "batch_weight": 0.0}, MEMORY, E, 1.7451514171),
]

MARGIN = {"fallback": "monotone", **SIZE}
HEAD, SOFT = "fastreid_heads_losses", {"margin": 0.0, "soft": True}
FILE = {  # output of metric_losses.json (or of the other file) -> model, options, tensors of the criterion by input
    "contrastive_pos0_neg1": ("contrastive_pairs", {}),
    "contrastive_cosine_pos1_neg0.5": (
        "contrastive_pairs",
        {"measure": "cosine", "positive_margin": 1.0, "negative_margin": 0.5},
    ),
    "triplet_margin0.05_all": ("triplet_all", {"margin": 0.05, **UNIT}),
    "triplet_margin0.2_swap_smooth": ("triplet_all", {"swap": True, "soft": True, **UNIT}),
    "batchhard_raw_margin0.3_mean": ("triplet_hard", {}),
    "batchhard_raw_soft": ("triplet_hard", SOFT),
    "semihard_margin0.2": ("triplet_all", {"mining": "semihard_all", **UNIT}),
    "margin_beta1.2_alpha0.2": ("margin_loss", {}),
    "margin_beta_per_class_nu0.1": ("margin_loss", {"num_classes": 4, "nu": 0.1}, {"beta": "beta"}),
    "circle_m0.4_g80": ("circle", {"margin": 0.4, "gamma": 80.0}),
    "circle_m0.25_g32": ("circle", {"margin": 0.25, "gamma": 32.0}),
    "circle_original_m0.25_g16": ("circle", {"margin": 0.25, "gamma": 16.0, "reduction": "batch"}),
    "fastap_10bins": ("fastap", {}),
    "multisimilarity": ("multi_similarity", {}),
    "lifted": ("lifted", {"margin": -1.0}),  # only the difference of its two margins counts: 0 and 1
    "npairs_like_ntxent_T0.07": ("n_pairs", {}),
    "supcon_T0.1": ("sup_con", {}),
    "arcface_s64_m28.6deg": ("arcface", {"margin": np.deg2rad(28.6), **MARGIN}, {"weight": "W"}),
    "arcface_s30_m0.5rad": ("arcface", {"scale": 30.0, **MARGIN}, {"weight": "W"}),
    "cosface_s64_m0.35": ("cosface", SIZE, {"weight": "W"}),
    "cosface_s30_m0.4": ("am_softmax", {"margin": 0.4, **SIZE}, {"weight": "W"}),
    **{f"sphereface_m{m}_s1": ("sphereface", {"m": m, **SIZE}, {"weight": "W"}) for m in (1, 2, 3, 4)},
    **{f"lsoftmax_m{m}_s1": ("l_softmax", {"m": m, **SIZE}, {"weight": "W"}) for m in (1, 2, 3, 4)},
    "normalized_softmax_T0.05": ("normalized_softmax", SIZE, {"weight": "W"}),
    "center_kaiyang": ("center_loss", {"form": "sum", **SIZE}, {"centers": "centers"}),
    "triplet_weighted": ("triplet_weighted", {}),
    "triplet_hard_margin0": ("triplet_hard", SOFT),
    "triplet_hard_margin03": ("triplet_hard", {}),
    "triplet_hard_margin03_norm": ("triplet_hard", {"squared": True, "normalize": True}),
    "pairwise_circleloss": ("circle", {"gamma": 128.0}),
    "pairwise_cosface": ("pairwise_cosface", {}),
}


def built(panel, model, options, tensors):
    found = panel(catalog.get(model), options)
    found.load({name: np.asarray(value) for name, value in tensors.items()}, strict=False)
    return found


def stored(name):
    """Inputs and outputs of the file that holds an output, as float64."""
    for file in ("metric_losses", HEAD):
        expected = fingerprints.load(file)
        if name in expected["outputs"]:
            inputs, outputs = (
                {key: np.reshape(np.asarray(v["data"], np.float64), v["shape"]) for key, v in expected[part].items()}
                for part in ("inputs", "outputs")
            )
            return inputs, outputs


def near(found, wanted, bound=2e-5):
    assert np.linalg.norm(found - wanted) <= bound * max(np.linalg.norm(wanted), 1e-9)


@BOTH
@pytest.mark.parametrize("model, options, tensors, embeddings, value", VECTORS)
def test_vectors(panel, model, options, tensors, embeddings, value):
    losses = built(panel, model, options, tensors).losses({"embeddings": embeddings}, {"labels": LABELS})
    np.testing.assert_allclose(losses["total"], value, rtol=2e-9)


@BOTH
@pytest.mark.parametrize("name", FILE)
def test_literal_losses_and_gradients(panel, name):
    model, options, *tensors = FILE[name]
    inputs, outputs = stored(name)
    x = {"embeddings": inputs["E"] if "E" in inputs else inputs["feature"]}
    targets = {"labels": inputs["labels"].astype(np.int64)}
    tensors = {f"criterion.{ours}": inputs[theirs] for ours, theirs in (tensors[0] if tensors else {}).items()}
    criterion = built(panel, model, options, tensors)
    near(criterion.losses(x, targets)["total"], outputs[name])
    gradients = criterion.gradients(x, targets, wrt_inputs=True)
    near(gradients["input.embeddings"], outputs.get(f"{name}.grad_E", outputs.get(f"{name}.grad")))
    for ours, theirs in (("criterion.weight", "grad_W"), ("criterion.centers", "grad_centers")):
        if f"{name}.{theirs}" in outputs:
            wanted = outputs[f"{name}.{theirs}"]
            near(gradients[ours], wanted.T if theirs == "grad_W" else wanted)
