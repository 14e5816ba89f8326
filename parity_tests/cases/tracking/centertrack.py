import functools

import numpy as np

from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

SMALL = {"depths": (1, 1, 1, 2, 1, 1), "widths": (4, 4, 6, 8, 10, 12), "hidden": 6}
SLOTS = 4
RATE = 2.0**-24  # gradients of the trunk are large before nine seeded deformable convolutions, as in CenterNet's case
OBJECTS = (((3, 5), (10, 20), (7, 2)), ((14, 30), (1, 11)))  # row and column of the cells, frame by frame
BEFORE = (((14, 22), (41, 85)), ((60, 118),))  # and of the pixels in the frame before


def frames(height: int, width: int):
    def make(rng, batch):
        return {
            **images(height, width)(rng, batch),
            **images(height, width, name="previous")(rng, batch),
            "heat": rng.uniform(size=(batch, 1, height, width)),
        }

    return make


def objects(height: int, width: int, classes: int, amodal: bool):
    def make(rng, batch):
        cells = np.stack([rng.permutation(height * width)[:SLOTS] for _ in range(batch)])
        labels = rng.integers(0, classes, (batch, SLOTS))
        valid = np.arange(SLOTS) < SLOTS - 1 - np.arange(batch)[:, None] % 3
        if batch > 2:
            valid[-1] = False
        peaks = rng.uniform(0, 0.9, (batch, classes, height * width))
        for i in range(batch):
            peaks[i, labels[i, valid[i]], cells[i, valid[i]]] = 1.0
        found = {name: rng.standard_normal((batch, SLOTS, 2)) for name in ("offsets", "sizes", "moves")}
        if amodal:
            found["borders"] = rng.standard_normal((batch, SLOTS, 4))
        return {
            "peaks": peaks.reshape(batch, classes, height, width),
            "index": cells,
            "labels": labels,
            "valid": valid,
            "followed": valid & (rng.uniform(size=valid.shape) < 0.7),
            **found,
        }

    return make


def hills(places, size, sigmas) -> np.ndarray:
    y, x = np.arange(size[0])[:, None], np.arange(size[1])
    found = np.zeros((len(places), 1, *size))
    for i, of_image in enumerate(places):
        for row, column in of_image:
            hill = np.exp(-((x - column) ** 2 / (2 * sigmas[0] ** 2) + (y - row) ** 2 / (2 * sigmas[1] ** 2)))
            found[i, 0] = np.maximum(found[i, 0], np.where(hill < 1e-7, 0, hill))
    return found


def stored_objects(expected, labels=((0, 0, 0), (0, 0)), classes: int = 1):
    peaks = np.zeros((2, classes, 24, 40))
    for label in range(classes):
        own = [[place for place, of in zip(*row, strict=True) if of == label] for row in zip(OBJECTS, labels)]
        peaks[:, label] = hills(own, (24, 40), (1.5, 1.2))[:, 0]
    index, valid = np.zeros((2, 3), np.int64), np.zeros((2, 3), bool)
    for i, of_image in enumerate(OBJECTS):
        for j, (row, column) in enumerate(of_image):
            index[i, j], valid[i, j] = row * 40 + column, True
    followed = valid.copy()
    followed[0, 1] = False

    def numbers(n):
        return ((np.arange(6 * n).reshape(2, 3, n) * 7 % 13) - 4) * 0.5

    return {
        "peaks": peaks,
        "index": index,
        "labels": np.array([(*of_image, 0, 0)[:3] for of_image in labels]),
        "valid": valid,
        "offsets": numbers(2),
        "sizes": numbers(2),
        "moves": numbers(2),
        "followed": followed,
        "borders": numbers(4),
    }


HEADS = ("hm", "reg", "wh", "tracking")
SAMPLED = (
    "seeded offsets of the deformable convolutions are large: in float32 rounding decides between which pixels they "
    "sample. Gradient norms of the files differ by up to 1.8e-3 (MOT17) and 2.7e-3 (COCO) from those in float64, which "
    "are equal in both panels, and of COCO by 7.4e-3 from TensorFlow's in float32"
)


def reference(file: str, heads: tuple[str, ...], targets, gradient_bound: float) -> Reference:
    return Reference(
        file,
        modules={f"base.{i}": f"base@{i}" for i in range(6)} | {f"dla_up.{i}": f"dla_up@{i}" for i in range(4)},
        outputs={name: name for name in heads},
        inputs={"image": "images", "pre_img": "previous"},
        given={"heat": hills(BEFORE, (96, 160), (6, 5))},
        losses={"total": "total"},
        targets=targets,
        gradient_bound=gradient_bound,
        reason=SAMPLED,
    )


CASES = [
    Case(
        "centertrack_mot17",
        frames(64, 96),
        objects(16, 24, 2, True),
        {**SMALL, "num_classes": 2},
        postprocess={"detections": 20},
        learning_rate=RATE,
        references=[reference("centertrack_dla34_mot17", (*HEADS, "ltrb_amodal"), stored_objects, 3e-3)],
    ),
    Case(
        "centertrack_coco",
        frames(32, 64),
        objects(8, 16, 3, False),
        {**SMALL, "num_classes": 3},
        postprocess={"detections": 10},
        learning_rate=RATE,
        without=SAME_GRAPH,
        references=[
            reference(
                "centertrack_dla34_coco",
                HEADS,
                functools.partial(stored_objects, labels=((0, 1, 2), (1, 0)), classes=80),
                1e-2,
            )
        ],
    ),
]
