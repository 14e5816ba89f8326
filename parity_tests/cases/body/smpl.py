from parity_tests.harness.case import Case

BODY = {"num_vertices": 17, "num_betas": 3, "parents": (-1, 0, 1, 1, 3), "vertex_joints": (4, 16)}


def person(clothes: bool = False, matrices: bool = False):
    def make(rng, batch):
        found = {
            "betas": rng.standard_normal((batch, 3)),
            "pose": rng.standard_normal((batch, 5, 3, 3) if matrices else (batch, 15)),
            "transl": rng.standard_normal((batch, 3)),
        }
        return {**found, **({"offsets": rng.standard_normal((batch, 17, 3))} if clothes else {})}

    return make


CASES = [
    Case("smpl", person(), options=BODY),
    Case("smpl", person(matrices=True), options=BODY, variant="matrices"),
    Case("smpl_d", person(clothes=True), options=BODY),
]
