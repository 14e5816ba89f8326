"""``python -m parity_tests.learning [NAME ...]``: train in both panels, save the curves, print how far they agree."""

import sys

from parity_tests.learning import curves
from parity_tests.learning.runs import RUNS


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        print(f"{unknown[0]}: no run has this name; there are {', '.join(RUNS)}", file=sys.stderr)
        return 2
    for name in names or RUNS:
        found = curves.measure(RUNS[name])
        curves.save(found)
        first, last = (found["losses"]["float64"]["torch_impl"][found["falls"]][i] for i in (0, -1))
        line = f"{name}: {found['falls']} {first:.4g} -> {last:.4g} in {found['steps']} steps"
        for precision, worst in found["worst"].items():
            step = found["parted"][precision]
            line += f"; {precision} {worst:.0e}" + (f", 1e-6 at step {step}" if step is not None else "")
        if recall := found.get("recall"):
            after = min(recall["after"].values())
            line += f"; recall {recall['before']:.3f} -> {after:.3f}, pixels {recall['pixels']:.3f}"
        if overlap := found.get("overlap"):
            line += f"; overlap {overlap['before']:.3f} -> {min(overlap['after'].values()):.3f}"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
