from parity_tests.cases.contrastive import SMALL, nothing, views
from parity_tests.harness.case import Case, Reference

OUTPUTS = {name: name for name in ("p1", "p2", "z1", "z2")}
R18 = {"block": "basic", "layers": (2, 2, 2, 2), "dim": 64, "pred_dim": 16}

CASES = [
    Case(
        "simsiam",
        views("x1", "x2"),
        nothing,
        {"dim": 8, "pred_dim": 4, **SMALL},
        trainer={"steps": 4},
        references=[Reference("simsiam_r18", R18, training=OUTPUTS)],
    )
]
