from parity_tests.cases.metric import CLASSES, loss

CASES = [
    loss("center_loss", **CLASSES),
    loss("center_loss", "sum", form="sum", weight=0.5, **CLASSES),
    loss("center_loss", "moved", centers="moved", **CLASSES),
]
