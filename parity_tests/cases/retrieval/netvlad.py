from parity_tests.harness.case import Case, Reference, images

SMALL = {"num_clusters": 8, "dim": 16}

CASES = [
    Case(
        f"netvlad_{version}",
        images(5, 7, 16, "x"),
        options=SMALL,
        references=[Reference(f"netvlad_{version}", SMALL, outputs={"vlad": "vlad"})],
    )
    for version in ("v1", "v2")
]
