from parity_tests.cases.contrastive import SMALL, nothing, views
from parity_tests.harness.case import Case

HEAD = {"hidden": 12, "dim": 6, **SMALL}

CASES = [
    Case("simclr_v1", views("view1", "view2"), nothing, HEAD),
    Case("simclr_v2", views("view1", "view2"), nothing, HEAD, criterion={"reduction": "mean"}),
]
