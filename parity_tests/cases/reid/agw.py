from parity_tests.cases.reid import CLASSES, SMALL, identities, persons, stored_labels
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

SIZES = {"images": ("N", None, "H", "W")}
DEEP = {**SMALL, "layers": (1, 2, 2, 1), "non_local": (0, 1, 2, 0), "num_classes": CLASSES}


def faint(rng, batch):
    """Products of products in the non-local blocks: full images end in numbers of 1e11."""
    return {"images": 0.1 * persons(rng, batch)["images"]}


SBS = {"mining": "hard", "circle_scale": 64.0}


ROUNDING = "float32 rounding of distances that are a hundred times as large as what the loss keeps of them"
POWER = "the seeded power of the pool is near 0, so that its gradient at values near 0 is all but their rounding"


def fast_reid(
    model: str, file: str = "", outputs=None, criterion=None, without=None, bounds=None, gradients=3e-3, **options
) -> Case:
    common = {
        "inputs": {"image": "images"},
        "targets": stored_labels,
        "criterion": criterion or {},
        "gradient_bound": gradients,
    }
    blocks = ("backbone.NL_2.0", "backbone.NL_2.1", "backbone.NL_3.2")
    network = Reference(
        file,
        {"num_classes": 8},
        modules={name: name for name in blocks},
        outputs={"feature": "embedding", "train_features": "feature", **(outputs or {})},
        losses={"loss_cls": "cross_entropy"},
        reason=POWER if gradients > 3e-3 else ROUNDING,
        **common,
    )
    triplet = Reference(
        file, {"num_classes": 8}, losses={"loss_triplet": "triplet"}, bound=5e-4, reason=ROUNDING, **common
    )
    return Case(
        model,
        faint,
        identities,
        {**DEEP, **options},
        criterion or {},
        dynamic=SIZES,
        references=[network, triplet] if file else [],
        without=without or {},
        bounds=bounds or {},
    )


CASES = [
    fast_reid("agw_r50", "fastreid_agw_r50", {"cls_outputs": "logits"}),
    fast_reid("agw_r101", inter="half", without=SAME_GRAPH),
    fast_reid("sbs_r50", "fastreid_sbs_r50", criterion=SBS, bounds={"training": (1e-4, POWER)}, gradients=0.2),
]
