"""What is trained: batches, small configurations, learning rates."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from parity_tests.learning import digits, pictures
from weights import catalog
from weights.processing.tracking.siamfc import CONTEXT, EXEMPLAR, cut
from weights.processing.tracking.targets import response_labels

__all__ = ["CLASSES", "RUNS", "Run"]

CLASSES = digits.CLASSES
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: of its file.
        model: in the catalogue.
        batches: inputs and targets of a step, from its number.
        options, criterion, trainer: as of a case.
        steps: how many.
        learning_rate, optimizer: where the catalogue has no trainer: "sgd" (momentum 0.9) or "adam".
        embedding: for a loss alone, the size of the embeddings that the small network makes.
        beside: another loss on the same embeddings that is added, and its options.
        trunk: for a contrastive system, the name of the ResNet whose features are compared; "" is the model itself.
        follower: for one with a second network that follows a first: beginnings of both names.
        schedule: changes the criterion before a step, from its number.
        shown: losses that are kept.
        falls: of these, the one that must fall; by how much: the mean of the last tenth over that of the first.
        settled: the step from which on the loss measures the same thing.
        together: for how many steps float64 must keep both curves within 1e-6 of each other; None for all.
        above: by how much the recall must be above that of raw pixels.
        follows: whether it is SiamFC, whose boxes are compared with those of objects that move.
    """

    name: str
    model: str
    batches: Callable[[int], tuple[Arrays, Arrays]]
    options: Mapping = field(default_factory=dict)
    criterion: Mapping = field(default_factory=dict)
    trainer: Mapping = field(default_factory=dict)
    steps: int = 300
    learning_rate: float = 0.05
    optimizer: str = "sgd"
    embedding: int = 0
    trunk: str | None = None
    beside: tuple[str, Mapping] | None = None
    follower: tuple[str, str] | None = None
    schedule: Callable | None = None
    shown: tuple[str, ...] = ("total",)
    falls: tuple[str, float] = ("total", 0.9)
    settled: int = 0
    together: int | None = None
    above: float = 0.3
    follows: bool = False

    @property
    def entry(self) -> catalog.Model:
        return catalog.get(self.model)


# losses of metric learning


def labelled(step: int) -> tuple[Arrays, Arrays]:
    batch = digits.batch(step)
    return {"images": batch["images"]}, {"labels": batch["labels"]}


def sampled(step: int) -> tuple[Arrays, Arrays]:
    inputs, targets = labelled(step)
    uniform = np.random.default_rng((6, step)).random((len(targets["labels"]), 4))
    return inputs, {**targets, "uniform": uniform}


def annealed(criterion, step: int) -> None:
    """The plain logit's weight falls from 100 to 5, see ``annealing``."""
    blend = max(5.0, 100 / (1 + 0.1 * step))
    if hasattr(criterion.blend, "assign"):
        criterion.blend.assign(blend)
    else:
        criterion.blend = blend


SOFTMAX = ("l_softmax", {"m": 1})  # the plain cross-entropy


def pairs(model: str, learning_rate: float = 6e-3, variant: str = "", embedding: int = 16, **others) -> Run:
    """A loss on the pairs of a batch."""
    name = f"{model}-{variant}" if variant else model
    return Run(
        name,
        model,
        optimizer="adam",
        **{"batches": labelled, "learning_rate": learning_rate, "embedding": embedding, **others},
    )


def classes(model: str, learning_rate: float = 6e-3, variant: str = "", embedding: int = 16, **others) -> Run:
    """A loss on classes, which has a weight for each."""
    options = {"num_classes": CLASSES, "embedding_size": embedding, **others.pop("options", {})}
    return pairs(model, learning_rate, variant, embedding, options=options, **others)


# without a rule for angles beyond pi - margin, embeddings that start there are drawn to the opposite of their class
ARC = {"scale": 8.0, "fallback": "monotone"}
# embeddings of two numbers, which can be drawn; so few steps do not yet make them say as much as all pixels
PLANE = {"variant": "plane", "embedding": 2, "learning_rate": 1e-2, "steps": 2000, "above": 0.15}
# where pairs enter and leave the loss at a bound, or are divided by few others, rounding grows from step to step
METRIC = [
    classes("arcface", options=ARC),
    classes(
        "arcface",
        options={"scale": 8.0, "margin": 0.2, "fallback": "monotone"},
        beside=SOFTMAX,
        together=250,
        **PLANE,
    ),
    classes("combined_margin", options=ARC),
    classes("sphereface", schedule=annealed),
    classes("sphereface", options={"m": 2}, schedule=annealed, **PLANE),
    classes("center_loss", options={"weight": 0.1}, beside=SOFTMAX),
    classes("center_loss", options={"weight": 0.1}, beside=SOFTMAX, **PLANE),
    classes("circle_softmax"),
    classes("cosface"),
    classes("am_softmax"),
    classes("normalized_softmax"),
    classes("l_softmax", schedule=annealed),
    pairs("pairwise_cosface", above=0.2),
    pairs("circle", options={"gamma": 32.0}),
    pairs("contrastive_pairs", together=100),
    pairs(
        "cross_batch_memory",
        options={"memory_size": 200, "embedding_size": 16},
        trainer={"learning_rate": 0.2},
        together=75,
    ),
    pairs("fastap", together=10),
    pairs("lifted"),
    pairs("margin_loss", together=200),
    pairs(
        "margin_loss",
        variant="sampled",
        batches=sampled,
        options={"samples_per_class": 5, "num_classes": CLASSES},
        together=200,
    ),
    pairs("multi_similarity"),
    pairs("n_pairs"),
    pairs("sup_con"),
    # alone, the hardest pairs draw all embeddings into one point
    pairs("triplet_hard", options={"normalize": True}, beside=SOFTMAX),
    pairs("triplet_facenet", together=90),
    pairs("triplet_weighted"),
    pairs("triplet_all", options={"reduction": "mean"}, together=120),
]


# contrastive systems


def two_views(first: str, second: str, step: int) -> tuple[Arrays, Arrays]:
    views = digits.views(step)
    return {first: views[:, 0], second: views[:, 1]}, {}


def many_views(step: int) -> tuple[Arrays, Arrays]:
    """Two views, and a part of two others, above and to the left."""
    views = digits.views(step, many=4)
    return {"large": views[:, :2], "small": views[:, 2:, :, :21, :21]}, {}


def shuffled(step: int) -> tuple[Arrays, Arrays]:
    inputs, _ = two_views("im_q", "im_k", step)
    return inputs, {"order": np.random.default_rng((7, step)).permutation(len(inputs["im_q"]))}


RESNET = {"block": "basic", "layers": (1, 1, 1, 1), "planes": (8, 16, 24, 32)}


def contrastive(model: str, trunk: str, batches, options: Mapping, trainer: Mapping, **others) -> Run:
    return Run(
        model,
        model,
        batches,
        {**RESNET, **options},
        trainer=trainer,
        trunk=trunk,
        above=0.05,
        **others,
    )


HEAD = {"hidden": 64, "dim": 32}
CONTRASTIVE = [
    contrastive("simclr_v1", "backbone", functools.partial(two_views, "view1", "view2"), HEAD, {"learning_rate": 0.5}),
    contrastive(
        "moco_v2",
        "encoder_q",
        shuffled,
        {"dim": 32, "queue_size": 120, "momentum": 0.97, "bn_groups": 2},
        {"learning_rate": 0.1, "momentum": 0.5},
        follower=("encoder_k.", "encoder_q."),
        falls=("total", 0.96),
        settled=3,  # the queue is full of keys, which are harder than its first, random ones
    ),
    contrastive(
        "byol",
        "backbone",
        functools.partial(two_views, "view1", "view2"),
        HEAD,
        {"learning_rate": 2.0, "momentum": 0.95},
        follower=("teacher_", ""),
    ),
    contrastive(
        "simsiam",
        "encoder",
        functools.partial(two_views, "x1", "x2"),
        {"dim": 64, "pred_dim": 16},
        {"learning_rate": 0.25},
        together=100,
        falls=("total", 0.0),  # it is near 0 at first, and falls to -1
    ),
    contrastive(
        "swav",
        "",
        many_views,
        {"hidden_mlp": 64, "output_dim": 16, "nmb_prototypes": 20},
        {"learning_rate": 1.0},
    ),
]


# generative models


def halved(images: np.ndarray, times: int) -> np.ndarray:
    """Means of ``times`` x ``times`` pixels."""
    n, c, h, w = images.shape
    return images.reshape(n, c, h // times, times, w // times, times).mean((3, 5))


def enlarging(scale: int, side: int, mix: bool, step: int) -> tuple[Arrays, Arrays]:
    """Small images and those that they were made from."""
    hr = pictures.pairs(step, 4, side)
    inputs = {"lr": halved(hr, scale), "hr": hr}
    if mix:
        inputs["mix"] = np.random.default_rng((8, step)).random(4)
    return inputs, {"hr": hr}


def only_small(scale: int, side: int, step: int) -> tuple[Arrays, Arrays]:
    inputs, targets = enlarging(scale, side, False, step)
    return {"lr": inputs["lr"]}, targets


def colouring(step: int) -> tuple[Arrays, Arrays]:
    """Grey images and the coloured ones, in [-1, 1]."""
    B = 2 * pictures.pairs(step, 2, 64) - 1
    A = np.repeat(np.tensordot(pictures.LUMA, B, (0, 1))[:, None], 3, 1)
    return {"A": A, "B": B}, {"B": B}


SUPER = {"blocks": 2, "width": 8, "size": 32, "hidden": 16}
VGG = {"widths": (4, 6, 8, 10, 12)}
GAN = [
    Run(
        "pix2pix",
        "pix2pix",
        colouring,
        {"num_downs": 6, "width": 8, "dropout": 0.0},
        trainer={"learning_rate": 1e-3},
        shown=("G_L1", "G_GAN", "D"),
        falls=("G_L1", 0.7),
        together=130,
    ),
    Run(
        "srresnet_x2",
        "srresnet_x2",
        functools.partial(only_small, 2, 32),
        {"blocks": 2, "width": 8, "output": "linear"},
        learning_rate=1e-3,
        optimizer="adam",
        falls=("total", 0.5),
    ),
    Run(
        "srgan",
        "srgan",
        functools.partial(enlarging, 4, 32, False),
        {**SUPER, "output": "linear"},
        VGG,
        {"learning_rate": 1e-3},
        shown=("G_pixel", "G_gan", "D"),
        falls=("G_pixel", 0.5),
    ),
    Run(
        "srgan_wgan_gp",
        "srgan_wgan_gp",
        functools.partial(enlarging, 4, 32, True),
        {**SUPER, "output": "linear"},
        {"mode": "wgan_gp", **VGG},
        {"learning_rate": 1e-3},
        shown=("G_pixel", "G_gan", "D"),
        falls=("G_pixel", 0.5),
    ),
]


# trackers


def found_again(step: int, count: int = 3, cells: int = 7) -> tuple[Arrays, Arrays]:
    """An object in one frame, and around its middle in another; it may have gone anywhere meanwhile."""
    rng = np.random.default_rng((9, step))
    side = EXEMPLAR + 8 * (cells - 1)
    inputs: dict[str, list] = {"exemplar": [], "search": []}
    for _ in range(count):
        (first, last), boxes = pictures.moving(rng, 2, 60)
        size = boxes[0, :1:-1]
        before, now = boxes[:, 1::-1] + (size - 1) / 2
        around = np.sqrt((size + CONTEXT * size.sum()).prod())
        fill = first.mean((0, 1))
        inputs["exemplar"].append(cut(first, before, around, EXEMPLAR, fill))
        inputs["search"].append(cut(last, now, around * side / EXEMPLAR, side, fill))
    labels = np.tile(response_labels(cells, cells), (count, 1, 1, 1))
    return {name: np.stack(crops) for name, crops in inputs.items()}, {"labels": labels}


TRACKING = [
    Run(
        "siamfc",
        "siamfc_alexnet_v1",
        found_again,
        {"channels": (8, 12, 16, 16, 12), "out_scale": 0.01},
        steps=200,
        learning_rate=1e-3,
        optimizer="adam",
        falls=("total", 0.6),
        follows=True,
    )
]

RUNS = {run.name: run for run in (*METRIC, *CONTRASTIVE, *GAN, *TRACKING)}
