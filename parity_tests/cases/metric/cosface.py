from parity_tests.cases.metric import CLASSES, loss, unlabelled

CASES = [
    loss("cosface", targets=unlabelled, **CLASSES),
    loss("am_softmax", targets=unlabelled, **CLASSES),
    loss("normalized_softmax", targets=unlabelled, **CLASSES),
    loss("pairwise_cosface", gamma=8.0),
]
