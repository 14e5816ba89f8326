"""Small configurations of the halves of the Siamese trackers."""

from parity_tests.harness.case import SAME_GRAPH, Case, images

ALEX = {"channels": (4, 6, 8, 8, 6)}
RESNET = {"layers": (1, 1, 2, 2), "planes": (4, 6, 8, 10), "channels": (6, 8, 10)}
MASK = {"layers": (1, 1, 2), "planes": (4, 6, 8), "channels": 6}
WHOLE = {"reference": "the whole networks have theirs"}


def maps(**sizes):
    """Input maker of several maps: channels, height, width by name."""

    def make(rng, batch):
        return {name: rng.standard_normal((batch, *size)) for name, size in sizes.items()}

    return make


CASES = [
    Case("siamfc_alexnet_v1_template", images(95, 103, name="exemplar"), options=ALEX, without=WHOLE),
    Case(
        "siamfc_alexnet_v1_track",
        maps(template=(6, 3, 2), search=(3, 127, 135)),
        options={**ALEX, "out_scale": 0.1},
        without=WHOLE,
    ),
    Case("siamrpn_alex_template", images(127, 127, name="template"), options=ALEX, without=WHOLE),
    Case(
        "siamrpn_alex_dwxcorr_track",
        maps(template=(6, 6, 6), search=(3, 151, 159)),
        options=ALEX,
        without=WHOLE,
    ),
    Case(
        "siamrpn_alex_up_track",
        maps(template=(6, 6, 6), search=(3, 151, 159)),
        options=ALEX,
        learning_rate=2.0**-12,  # the kernels that it makes are large
        without=WHOLE | SAME_GRAPH,
    ),
    Case("siamrpn_r50_l234_dwxcorr_template", images(103, 103, name="template"), options=RESNET, without=WHOLE),
    Case(
        "siamrpn_r50_l234_dwxcorr_track",
        maps(**{f"c{i}": (2 * i, 7, 7) for i in (3, 4, 5)}, search=(3, 175, 183)),
        options=RESNET,
        without=WHOLE,
    ),
    Case("siammask_template", images(127, 127, name="template"), options=MASK, without=WHOLE),
    Case(
        "siammask_sharp_track",
        maps(template=(6, 7, 7), search=(3, 135, 143)),
        options=MASK,
        without=WHOLE,
    ),
    Case(
        "siammask_sharp_refine",
        maps(column=(6,), c1=(4, 61, 61), c2=(16, 31, 31), c3=(24, 15, 15)),
        options={name: MASK[name] for name in ("planes", "channels")},
        without=WHOLE,
    ),
    Case("siamfcpp_alexnet_template", images(111, 111, name="template"), options=ALEX, without=WHOLE),
    Case(
        "siamfcpp_alexnet_track",
        maps(cls_kernel=(6, 3, 3), box_kernel=(6, 3, 3), search=(3, 175, 191)),
        options=ALEX,
        learning_rate=2.0**-20,  # distances are exponentials
        without=WHOLE,
    ),
]
