"""The gradient of the total loss agrees in float64 for every parameter by name."""


def test_gradients_agree(case, proof, holds):
    measured = holds("gradients")
    if not measured.applies:
        return
    trained = {name for name, p in proof.twins("float64")[1].model.named_parameters() if p.requires_grad}
    assert trained <= {figure.name for figure in measured.figures}
    if trained:
        assert measured.details["largest"] > 0
