from parity_tests.cases.metric import CLASSES, loss, unlabelled

CASES = [
    loss("circle"),
    loss("circle", "batch", reduction="batch", gamma=16.0),
    loss("circle_softmax", targets=unlabelled, **CLASSES),
]
