from parity_tests.cases.metric import loss

CASES = [
    loss("lifted"),
    loss("lifted", "generalized", generalized=True, normalize=False),
]
