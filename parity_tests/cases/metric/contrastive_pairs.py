from parity_tests.cases.metric import loss

CASES = [
    loss("contrastive_pairs"),
    loss("contrastive_pairs", "cosine", measure="cosine", positive_margin=1.0, negative_margin=0.5),
    loss("contrastive_pairs", "anchor", measure="anchor", negative_margin=0.2),
]
