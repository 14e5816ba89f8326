import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

SMALL = {"planes": (4, 6, 8, 10), "channels": 6, "width": 4, "iterations": 2, "num_classes": 3}
# of the files, by image and sequence
BOXES = (((60, 50, 70, 60), (80, 70, 50, 80)), ((66, 55, 68, 62), (77, 75, 52, 78)))
PROPOSALS = (
    (
        ((58, 52, 70, 60), (70, 60, 60, 50), (40, 40, 90, 90)),
        ((80, 66, 52, 84), (90, 80, 40, 60), (60, 60, 90, 100)),
    ),
    (
        ((64, 50, 66, 64), (50, 50, 80, 70), (75, 65, 60, 60)),
        ((78, 70, 50, 80), (70, 90, 60, 50), (100, 60, 40, 90)),
    ),
)
OVERLAPS = (((0.9, 0.55, 0.4), (0.85, 0.5, 0.35)), ((0.92, 0.7, 0.6), (0.88, 0.3, 0.45)))
CENTRES = (((5.6, 6.2), (7.0, 6.8)), ((5.9, 6.4), (6.5, 7.1)))  # rows and columns of the cells


def by_sequence(values) -> np.ndarray:
    return np.asarray(values, np.float64).swapaxes(0, 1)


def hills(centres: np.ndarray, height: int, width: int) -> np.ndarray:
    """Peaks of deviation 0.9 cells.  (N, S, 2) -> (N, S, height, width)."""
    y, x = np.arange(height)[:, None], np.arange(width)
    row, column = centres[..., 0, None, None], centres[..., 1, None, None]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 0.9**2))


def sequences(height: int, width: int, train: int = 3, test: int = 2, count: int = 4):
    def boxes(rng, *shape):
        size = rng.uniform(0.2, 0.5, (*shape, 2)) * [width, height]
        return np.concatenate([rng.uniform(0, 1, (*shape, 2)) * ([width, height] - size), size], -1)

    def make(rng, batch):
        return {
            "train_images": rng.standard_normal((batch, train, 3, height, width)),
            "test_images": rng.standard_normal((batch, test, 3, height, width)),
            "train_boxes": boxes(rng, batch, train),
            "proposals": boxes(rng, batch, test, count),
        }

    return make


def answers(height: int, width: int, test: int = 2, count: int = 4):
    def make(rng, batch):
        centres = rng.uniform(0, 1, (batch, test, 2)) * [height, width]
        return {"labels": hills(centres, height, width), "ious": rng.uniform(0, 1, (batch, test, count))}

    return make


def as_built(values):
    """The file leaves the parameters of the descent as they are before training."""
    distance = np.arange(100) * 0.1
    hill = np.exp(-0.5 * (distance / 0.9) ** 2)
    functions = {
        "label_map_predictor": hill - hill.min(),
        "target_mask_predictor.0": 3 * np.tanh(2 - distance),
        "spatial_weight_predictor": np.ones(100),
    }
    built = {f"{name}.weight": function.reshape(1, -1, 1, 1) for name, function in functions.items()}
    built |= {"log_step_length": np.log([0.9]), "filter_reg": np.array([0.1])}
    return values | {f"classifier.filter_optimizer.{name}": x.astype(np.float32) for name, x in built.items()}


def reference(file: str) -> Reference:
    images = {name: by_sequence(x) for name, x in fingerprints.inputs_of(fingerprints.load(file)).items()}
    calls = {
        "layer2_train": "feature_extractor.layer2",
        "layer3_train": "feature_extractor.layer3",
        "clf_feat_train": "classifier.feature_extractor",
        "clf_feat_test": "classifier.feature_extractor#1",
        "filter_init": "classifier.filter_initializer",
        "modulation.0": "bb_regressor.fc34_3r",
        "modulation.1": "bb_regressor.fc34_4r",
        "iou_feat.0": "bb_regressor.conv3_2t",
        "iou_feat.1": "bb_regressor.conv4_2t",
        "iou": "bb_regressor",
    }
    steps = {f"filter_iterates.{i}": f"classifier.filter_optimizer@{i}" for i in range(6)}
    return Reference(
        file,
        modules={**calls, **steps, **{f"scores.{i}": f"classifier@{i}" for i in range(6)}},
        given={**images, "train_boxes": by_sequence(BOXES), "proposals": by_sequence(PROPOSALS)},
        losses={name: name for name in ("iou", "test_clf", "test_init_clf", "test_iter_clf")},
        weights=as_built,
        targets=lambda _: {"labels": hills(by_sequence(CENTRES), 13, 14), "ious": by_sequence(OVERLAPS)},
    )


CASES = [
    Case(
        "dimp18",
        sequences(48, 80),
        answers(4, 6),
        {**SMALL, "layers": (1, 1, 1, 1)},
        references=[reference("pytracking_dimp18")],
    ),
    Case(
        "dimp50",
        sequences(32, 48),
        answers(3, 4),
        {**SMALL, "layers": (1, 1, 1, 1), "num_bins": 10, "bin_displacement": 1.0},
        references=[reference("pytracking_dimp50")],
        without=SAME_GRAPH,
    ),
]
