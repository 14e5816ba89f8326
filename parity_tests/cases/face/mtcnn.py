import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, Reference, images

ROWS = 5  # samples for each of a batch: one of every type, and one more without a face


def crops(height, width):
    return lambda rng, batch: images(height, width)(rng, ROWS * batch)


def targets(landmarks: bool):
    def make(rng, batch):
        found = {
            "types": np.tile([1, 0, -1, -2, 0], batch),
            "boxes": rng.uniform(-0.3, 0.3, (ROWS * batch, 4)),
        }
        return {**found, **({"landmarks": rng.uniform(size=(ROWS * batch, 10))} if landmarks else {})}

    return make


def probe(types):
    """The files' loss: every number has the same wish."""

    def make(expected):
        rows = len(types)
        return {"types": np.array(types), "boxes": np.full((rows, 4), 0.1), "landmarks": np.full((rows, 10), 0.4)}

    return make


def reference(file: str, types, outputs=("box", "prob"), losses=None, **options) -> Reference:
    return Reference(
        file,
        modules={"conv1": "prelu1", "pool1": "pool1"} if outputs else {},
        outputs={name: name for name in outputs},
        losses={"det": "det", "box": "box"} if losses is None else losses,
        targets=probe(types),
        criterion={"weights": (1.0, 0.25, 0.1), "keep": 1.0},  # means over the numbers
        **options,
    )


ALL = {"det": "det", "box": "box", "landmarks": "landmark"}
ONET = "facenet_pytorch_mtcnn_onet"

# a sample either has a class or landmarks, and the file's loss has both: every sample twice
TWICE = np.tile(fingerprints.inputs_of(fingerprints.load(ONET))["image"], (2, 1, 1, 1))

CASES = [
    Case(
        "mtcnn_pnet",
        crops(17, 22),
        targets(False),
        references=[reference("facenet_pytorch_mtcnn_pnet", [1, 1])],
    ),
    Case(
        "mtcnn_rnet",
        crops(24, 24),
        targets(False),
        references=[reference("facenet_pytorch_mtcnn_rnet", [1, 1, 1])],
    ),
    Case(
        "mtcnn_onet",
        crops(48, 48),
        targets(True),
        criterion={"weights": (1.0, 0.5, 1.0)},
        references=[
            reference(ONET, [1, 1, 1], ("box", "prob", "landmarks"), {}),
            reference(ONET, [1] * 3 + [-2] * 3, (), ALL, given={"images": TWICE}),
        ],
    ),
]
