from parity_tests.cases.metric import loss

CASES = [
    loss("fastap"),
    loss("fastap", "bins", bins=20),
]
