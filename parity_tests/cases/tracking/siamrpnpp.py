from parity_tests.cases.tracking._common import labels, pair, reference
from parity_tests.harness.case import SAME_GRAPH, Case

SMALL = {"layers": (1, 2, 2, 2), "planes": (4, 6, 8, 10), "channels": (6, 8, 10)}
MAPS = {f"template_features.{i}": f"neck#0@{i}" for i in range(3)}
MAPS |= {f"backbone_search.{i}": f"backbone#1@{i}" for i in range(3)}


def case(variant: str, **others) -> Case:
    model = f"siamrpn_r50_l234_dwxcorr{variant}"
    references = [reference(f"pysot_{model}", MAPS)]
    return Case(model, pair(103, 175, 183), labels(15, 16), SMALL, references=references, **others)


CASES = [
    case(""),
    case("_otb", without=SAME_GRAPH),
    case("_lt", without=SAME_GRAPH),
]
