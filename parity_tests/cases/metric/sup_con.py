from parity_tests.cases.metric import loss

CASES = [
    loss("n_pairs"),
    loss("sup_con"),
]
