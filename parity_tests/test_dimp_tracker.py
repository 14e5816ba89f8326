"""DiMP's loop over frames: a square that moves and grows, and a network."""

import numpy as np
import pytest
import torch

from parity_tests.test_dimp_update import descent, optimizer
from torch_impl.tracking.dimp import apply_filter, dimp18
from weights.processing.tracking import dimp


class Square:
    """A network that sees how bright cells are, and overlaps of boxes with what is bright."""

    def extract(self, samples):
        cells = samples[:, 0].reshape(len(samples), 18, 16, 18, 16).mean((2, 4)) / 255
        return {"classification": np.stack([cells, 1 - cells], 1).astype(np.float64), "pixels": samples[:, 0]}

    def initial_filter(self, features, boxes):
        return features[0, :, 7:11, 7:11] / 16

    def overlaps(self, modulation, found, boxes):
        y, x = np.nonzero(found["pixels"][0] > 128)
        true = np.array([x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1.0])
        return -np.abs(boxes - true).sum(1), 0.5 * (true - boxes) / np.tile(boxes[:, 2:], 2)


def frame(y, x, side):
    image = np.zeros((200, 240, 3))
    image[y : y + side, x : x + side] = 255
    return image


def test_a_square_is_followed():
    network = Square()
    tracker = dimp.DiMPTracker(
        network.extract, network.initial_filter, optimizer(descent()), lambda found, box: None, network.overlaps
    )
    tracker.initialise(frame(80, 100, 24), (100, 80, 24, 24))
    assert len(tracker.memory.stored()[0]) == 15
    for i in range(1, 6):
        y, x, side = 80 + 3 * i, 100 + 6 * i, 24 + i
        found = tracker.track(frame(y, x, side))
        assert found["state"] == "normal" and found["score"] > 0.4
        np.testing.assert_allclose(found["box"], (x, y, side, side), atol=1.5)
    assert len(tracker.memory.stored()[0]) == 20
    before = tracker.place.copy()
    assert tracker.track(np.zeros((200, 240, 3)))["state"] == "not_found"
    np.testing.assert_array_equal(tracker.place, before)
    assert len(tracker.memory.stored()[0]) == 20


class Network:
    """The PyTorch panel's network as the loop wants it."""

    def __init__(self, model):
        self.model = model

    def extract(self, samples):
        with torch.no_grad():
            maps = list(self.model.feature_extractor.forward_features(torch.tensor(samples) / 255).values())
            features = self.model.classifier.features(maps[1], len(samples))[:, 0]
        return {"classification": features.numpy(), "maps": maps[0], "coarse": maps[1]}

    def initial_filter(self, features, boxes):
        with torch.no_grad():
            found = self.model.classifier.filter_initializer(
                torch.tensor(features)[:, None], torch.tensor(boxes)[:, None]
            )
        return found[0].numpy()

    def modulate(self, found, box):
        with torch.no_grad():
            return self.model.bb_regressor.modulation((found["maps"], found["coarse"]), torch.tensor(box)[None])

    def overlaps(self, vectors, found, boxes):
        boxes = torch.tensor(boxes, dtype=torch.float32, requires_grad=True)
        iou = self.model.bb_regressor.overlaps(vectors, (found["maps"], found["coarse"]), boxes[None, None])[0, 0]
        return iou.detach().numpy(), torch.autograd.grad(iou.sum(), boxes)[0].numpy()


def test_the_loop_runs_with_a_network(monkeypatch):
    monkeypatch.setattr(dimp, "NOT_FOUND", 0.01)  # of a network that has learnt nothing
    torch.manual_seed(0)
    model = dimp18(layers=(1, 1, 1, 1), planes=(4, 6, 8, 10), channels=6, width=8, num_classes=2).eval()
    network = Network(model)
    parameters = {name: x.detach().numpy() for name, x in model.classifier.filter_optimizer.state_dict().items()}
    tracker = dimp.DiMPTracker(
        network.extract,
        lambda features, boxes: network.initial_filter(features.astype(np.float32), boxes.astype(np.float32)),
        dimp.FilterOptimizer(parameters),
        lambda found, box: network.modulate(found, box.astype(np.float32)),
        network.overlaps,
    )
    image = np.zeros((120, 160, 3))
    image[40:64, 70:94] = 255, 0, 0
    tracker.initialise(image, (70, 40, 24, 24))
    kernel, seen = tracker.kernel, []
    tracker.extract = lambda samples: seen.append(network.extract(samples)) or seen[-1]
    found = tracker.track(np.roll(image, 4, 1))
    features = torch.tensor(seen[0]["classification"])[:, None]
    wanted = apply_filter(features, torch.tensor(kernel, dtype=torch.float32)[None]).max()
    assert found["score"] == pytest.approx(float(wanted), rel=1e-5) and found["state"] != "not_found"
    assert np.isfinite(found["box"]).all() and (found["box"] != (70, 40, 24, 24)).all()
