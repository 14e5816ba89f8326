"""Small configurations of CenterNet."""

import numpy as np

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, Reference, images

SMALL = {"planes": (4, 6, 8, 10), "layers": (1, 1, 1, 1), "num_classes": 4, "hidden": 8}
FEW = {"detections": 20}


def reference(file: str, factor: float, modules: dict[str, str], gradient_bound: float = 1e-3) -> Reference:
    """The published network's maps, outputs, losses and gradients; they are of the plain sum of the losses."""
    shape = fingerprints.load(file)["inputs"]["image"]["shape"]
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.float32(factor)
    return Reference(
        file,
        modules=modules,
        outputs={f"out.0.{key}": key for key in ("hm", "wh", "reg")},
        inputs={"image": "images"},
        given={"images": noise.astype(np.float64)},
        losses={key: key for key in ("hm_loss", "wh_loss", "off_loss")},
        targets=stored_objects,
        criterion={"wh_weight": 1.0},
        gradient_bound=gradient_bound,
        reason=DEFORMED if gradient_bound > 1e-3 else "",
    )


DEFORMED = (
    "seeded offsets of the deformable convolutions are large: in float32 rounding decides between which pixels they "
    "sample. Gradient norms of the two panels differ as much from each other as from the file, 1.5e-3 on resdcn18 and "
    "7e-3 on dla34; outputs and losses keep the usual bound"
)
TRUNK = {f"layers.{i}": f"layer{i + 1}" for i in range(4)}

CASES = [
    Case(
        "centernet_resdcn18",
        images(64, 96),
        objects(64, 96, 4),
        {**SMALL, "widths": (8, 6, 6)},
        postprocess=FEW,
        references=[
            reference(
                "centernet_resdcn18",
                4,
                TRUNK | {f"deconv_layers.{i}": f"deconv_layers.{i}" for i in (0, 3, 6, 9, 12, 15)},
                3e-3,
            )
        ],
    ),
    Case(
        "centernet_res18",
        images(64, 96),
        objects(64, 96, 4),
        {**SMALL, "widths": (6, 6, 6)},
        postprocess=FEW,
        references=[
            reference("centernet_res18", 1, TRUNK | {f"deconv_layers.{i}": f"deconv_layers.{i}" for i in (0, 3, 6)})
        ],
    ),
    Case(
        "centernet_dla34",
        images(64, 96),
        objects(64, 96, 4),
        {
            "depths": (1, 1, 1, 2, 1, 1),
            "widths": (4, 6, 8, 10, 12, 14),
            "num_classes": 4,
            "hidden": 8,
            "classifier": 3,
        },
        postprocess=FEW,
        # nine seeded deformable convolutions in a row: gradients of the trunk are large, losses move by 1e-2 in a step
        learning_rate=2.0**-24,
        references=[
            reference(
                "centernet_dla34",
                25,
                {f"base.{i}": f"base.level{i}" for i in range(6)} | {f"dla_up.{i}": f"dla_up@{i}" for i in range(4)},
                1.5e-2,
            )
        ],
    ),
]
