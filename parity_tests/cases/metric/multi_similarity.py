from parity_tests.cases.metric import loss

CASES = [
    loss("multi_similarity"),
]
