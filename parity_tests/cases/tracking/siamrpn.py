from parity_tests.cases.tracking._common import labels, pair, reference
from parity_tests.harness.case import Case

MAPS = {"template_features": "backbone#0", "backbone_search": "backbone#1"}

CASES = [
    Case(
        f"siamrpn_alex_{head}",
        pair(127, 151, 159),
        labels(4, 5),
        {"channels": (4, 6, 8, 8, 6)},
        references=[reference(f"pysot_siamrpn_alex_{head}", MAPS)],
    )
    for head in ("dwxcorr", "up")
]
