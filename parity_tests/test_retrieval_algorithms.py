"""What surrounds descriptors: whitening, expansion, diffusion, indexes, re-ranking as loops, measures."""

import numpy as np
import pytest

from weights.processing.retrieval import diffusion, expansion, index, metrics, netvlad, reranking, whitening
from weights.processing.retrieval.regions import regions


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def clusters():
    """200 vectors of 16 numbers around 10 centres, and their classes."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(200) % 10)
    return unit(rng.standard_normal((10, 16))[labels] + 0.8 * rng.standard_normal((200, 16))), labels


def test_pca_whitening_makes_variances_one():
    x = np.random.default_rng(0).standard_normal((300, 5)) @ np.diag([5, 3, 2, 1, 0.5]) + 2
    mean, projection = whitening.learn_pca_whitening(x)
    moved = (x - mean) @ projection.T
    np.testing.assert_allclose(moved.T @ moved / len(x), np.eye(5), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(whitening.whiten(x, mean, projection, 3), axis=1), 1, atol=1e-3)
    with pytest.raises(ValueError, match="fill less than 5 dimensions"):
        whitening.learn_pca_whitening(x[:4])


def test_learned_whitening_makes_the_noise_of_pairs_one():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((80, 4))
    x = np.concatenate([x, x + rng.standard_normal((80, 4)) @ rng.standard_normal((4, 4)) / 5])
    queries, positives = np.arange(80), np.arange(80, 160)
    _, projection = whitening.learn_whitening(x, queries, positives)
    difference = (x[queries] - x[positives]) @ projection.T
    np.testing.assert_allclose(difference.T @ difference / 80, np.eye(4), atol=1e-10)
    with pytest.raises(ValueError, match="pairs do not differ"):
        whitening.learn_whitening(x, [0, 1], [80, 81])


def test_expansion_and_diffusion_find_more(clusters):
    x, labels = clusters
    queries, database = x[:20], x[20:]

    def score(scores):
        truth = [{"ok": np.flatnonzero(labels[20:] == label), "junk": []} for label in labels[:20]]
        return metrics.mean_average_precision(np.argsort(-scores, 1, kind="stable"), truth)["map"]

    plain = score(queries @ database.T)
    assert plain < score(expansion.expand_queries(queries, database, 5, 0) @ database.T)
    assert plain < score(expansion.expand_queries(queries, database) @ expansion.augment_database(database).T)
    found = diffusion.diffuse(queries, database, 15, iterations=200)
    assert plain < score(found)
    graph = diffusion.affinity(database, 15)
    start = np.zeros_like(found)
    scores, rows = index.nearest(queries, database, 10)
    np.put_along_axis(start, rows, np.maximum(scores, 0) ** 3, 1)
    np.testing.assert_allclose(found, np.linalg.solve(np.eye(180) - 0.99 * graph, start.T).T, rtol=1e-6, atol=1e-9)


def test_product_quantisation_finds_most_of_what_is_near(clusters):
    x, _ = clusters
    exact = index.nearest(x[:20], x, 10)[1]
    quantised = index.IVFPQ(x, 8, 4, 64)
    found = quantised.search(x[:20], 10, probes=8)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.6
    assert quantised.codes.dtype == np.uint8
    with pytest.raises(ValueError, match="parts=3 must divide"):
        index.IVFPQ(x, 8, 3)


def loops(distances, queries, k1, k2, weight):
    """The algorithm as in the paper, set by set."""
    d = (distances**2 / (distances**2).max(0)).T
    order = d.argsort(1, kind="stable")

    def reciprocal(i, k):
        return [j for j in order[i, : k + 1] if i in order[j, : k + 1]]

    sets = np.zeros_like(d)
    for i in range(len(d)):
        members = set(reciprocal(i, k1))
        for candidate in reciprocal(i, k1):
            more = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(set(more) & set(reciprocal(i, k1))) > 2 / 3 * len(more):
                members |= set(more)
        chosen = sorted(members)
        sets[i, chosen] = np.exp(-d[i, chosen]) / np.exp(-d[i, chosen]).sum()
    if k2 != 1:
        sets = np.stack([sets[order[i, :k2]].mean(0) for i in range(len(d))])
    shared = np.array([[np.minimum(a, b).sum() for b in sets] for a in sets[:queries]])
    return ((1 - weight) * (1 - shared / (2 - shared)) + weight * d[:queries])[:, queries:]


@pytest.mark.parametrize(("kind", "recall"), [("flat", 1.0), ("hnsw", 0.95), ("ivf", 0.6), ("pq", 0.5), ("ivfpq", 0.5)])
def test_indexes_of_faiss_find_what_exact_search_finds(kind, recall):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 32)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    queries = x[:50] + 0.02 * rng.standard_normal((50, 32)).astype(np.float32)
    found = index.faiss_index(x, kind, lists=16)
    if kind.startswith("ivf"):
        found.nprobe = 4
    rows = found.search(queries, 10)[1]
    exact = np.argsort(-(queries @ x.T), axis=1)[:, :10]
    assert (rows[:, 0] == np.arange(50)).all()
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, exact, strict=True)]) >= recall


@pytest.mark.parametrize("k1, k2", [(20, 6), (5, 1), (7, 3)])
def test_reranking_without_loops_is_that_with_loops(clusters, k1, k2):
    x, _ = clusters
    d = np.sqrt(np.maximum(2 - 2 * x @ x.T, 0))
    found = reranking.rerank(d[:15, 15:], d[:15, :15], d[15:, 15:], k1, k2)
    np.testing.assert_allclose(found, loops(d, 15, k1, k2, 0.3), atol=1e-12)


def test_equal_images_are_reranked_without_a_distance():
    """As a folder with copies of one image: nothing is divided by zero."""
    nothing = np.zeros((4, 4))
    with np.errstate(all="raise"):
        np.testing.assert_allclose(reranking.rerank(nothing[:1, 1:], nothing[:1, :1], nothing[1:, 1:]), 0, atol=1e-15)


def test_measures(clusters):
    assert metrics.average_precision([0, 2, 5], 4) == pytest.approx(0.5083333333)
    ranks, truth = np.array([[3, 0, 1, 2]]), [{"ok": [0, 2], "junk": [3]}]
    found = metrics.mean_average_precision(ranks, truth, (1, 2))
    assert found["map"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    np.testing.assert_allclose(found["precision"], [1, 0.5])
    query = {"easy": [0], "hard": [1], "junk": [2]}
    hard = metrics.revisited(query, "hard")
    assert (list(hard["ok"]), list(hard["junk"])) == ([1], [2, 0])
    reid = metrics.reid_evaluation(np.array([[0.1, 0.2, 0.3, 0.4]]), [5], [5, 7, 5, 5], [0], [0, 1, 1, 2])
    np.testing.assert_array_equal(reid["cmc"], [0, 1, 1, 1])  # the nearest is of the same camera
    assert (reid["map"], reid["minp"]) == pytest.approx(((1 / 2 + 2 / 3) / 2, 2 / 3))
    x, labels = clusters
    recall = metrics.recall_at_k(x, labels)
    assert recall[1] <= recall[8] <= 1
    assert metrics.normalized_mutual_information([0, 0, 1, 1], [5, 5, 2, 2]) == pytest.approx(1)
    assert metrics.normalized_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0)
    assert metrics.normalized_mutual_information(labels, index.k_means(x, 10)[1]) > 0.6


def test_regions():
    assert len(regions(8, 8)) == 14
    assert regions(3, 3, 1) == [(0, 0, 3)]
    assert all(top + side <= 7 and left + side <= 11 for top, left, side in regions(7, 11))


@pytest.mark.parametrize("bias", [False, True])
def test_first_assignments_of_netvlad_are_nearly_hard(clusters, bias):
    x, _ = clusters
    tensors = netvlad.netvlad_tensors(index.k_means(x, 10)[0], x, bias)
    logits = x @ tensors["conv.weight"][:, :, 0, 0].T + tensors.get("conv.bias", 0)
    nearest = np.sort(logits, 1)
    assert np.mean(nearest[:, -1] - nearest[:, -2]) == pytest.approx(-np.log(0.01), rel=0.6)
