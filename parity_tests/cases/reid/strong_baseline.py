from parity_tests.cases.reid import CLASSES, SMALL, centers, identities, persons, stored_labels
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

SIZES = {"images": ("N", None, "H", "W")}


def baseline(model: str, file: str = "", embedding_size: int = 10, without=None, **options) -> Case:
    common = {"inputs": {"image": "images"}, "targets": stored_labels, "criterion": {"num_classes": 8}}
    outputs = Reference(
        file,
        {"num_classes": 8},
        modules={f"base.layer{i}": f"base.layer{i}" for i in (1, 2, 3, 4)},
        outputs={"test_feature": "embedding", "logits": "logits"},
        losses={"xent": "cross_entropy", "center_x0005": "center"},
        weights=centers,
        **common,
    )
    triplet = Reference(
        file,
        {"num_classes": 8},
        losses={"triplet": "triplet"},
        weights=centers,
        bound=5e-3,
        reason="the loss is what is left of two distances that are a hundred times as large, in float32",
        **common,
    )
    return Case(
        model,
        persons,
        identities,
        {"num_classes": CLASSES, **SMALL, **options},
        {"num_classes": CLASSES, "embedding_size": embedding_size},
        dynamic=SIZES,
        references=[outputs, triplet] if file else [],
        without=without or {},
    )


CASES = [
    baseline("reid_baseline_resnet18"),
    baseline("reid_baseline_resnet50", "reid_strong_baseline_resnet50", 40, block="bottleneck"),
    baseline("reid_baseline_resnet50_ibn_a", "reid_strong_baseline_resnet50_ibn_a", 40, block="ibn_a"),
    baseline("reid_baseline_resnet101", neck=False, neck_feat="before", without=SAME_GRAPH),
]
