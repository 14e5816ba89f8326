from parity_tests.cases.metric import CLASSES, loss, unlabelled

CASES = [
    loss("l_softmax", targets=unlabelled, **CLASSES),
    loss("l_softmax", "m3", targets=unlabelled, m=3, blend=5.0, **CLASSES),
    loss("l_softmax", "m2", targets=unlabelled, m=2, **CLASSES),
]
