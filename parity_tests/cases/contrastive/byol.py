from parity_tests.cases.contrastive import SMALL, nothing, views
from parity_tests.harness.case import Case

HEAD = {"hidden": 12, "dim": 6, **SMALL}

CASES = [Case("byol", views("view1", "view2"), nothing, HEAD, trainer={"momentum": 0.5, "steps": 4, "warmup": 2})]
