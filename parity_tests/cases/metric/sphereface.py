from parity_tests.cases.metric import CLASSES, loss, unlabelled

CASES = [
    loss("sphereface", targets=unlabelled, **CLASSES),
    loss("sphereface", "m3", targets=unlabelled, m=3, blend=5.0, **CLASSES),
    loss("sphereface", "m2", targets=unlabelled, m=2, **CLASSES),
]
