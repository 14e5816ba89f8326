"""Post-processed results are the same in both panels and both ONNX files."""


def test_results_are_equal(case, proof, holds):
    assert holds("results").applies == (proof.entry.postprocess is not None and "results" not in proof.case.without)
