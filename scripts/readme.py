"""The README's tables, from the catalogue, the saved proof and the saved timings: ``python -m scripts.readme``."""

import json
from pathlib import Path

from scripts.parity import LEVELS, saved
from weights import catalog

__all__ = ["README", "updated"]

README = Path(__file__).parent.parent / "README.md"
SPEED = Path(__file__).parent / "speed.json"  # what `diptych bench ... --against reference --json` prints
BEGIN = "<!-- {}: written by `python -m scripts.readme` -->"
END = "<!-- end of {} -->"
SHOWN = [level for level in LEVELS if level != "interface"]


def cell(levels: list[dict]) -> str:
    """The worst figure of a level over several cases; blank if it applies to none of them."""
    if any(not level["holds"] for level in levels):
        return "**BROKEN**"
    figures = [level["figure"] for level in levels if level["figure"] is not None]
    return f"{max(figures):.0e}" if figures else ""


def systems() -> str:
    """One row per system: its models, the parameters of the first one, the worst figure of every level."""
    proof = saved()
    grouped: dict[tuple[str, str], list[catalog.Model]] = {}
    for model in catalog.load().values():
        grouped.setdefault((model.family, model.system), []).append(model)
    lines = [
        "| family | system | models | parameters | " + " | ".join(SHOWN) + " |",
        "| --- | --- | --- | ---: |" + " ---: |" * len(SHOWN),
    ]
    for (family, system), models in grouped.items():
        names = {model.name for model in models}
        cases = [case["levels"] for case in proof.values() if case["model"] in names]
        count = f"{models[0].parameters:,}" if models[0].parameters else ""
        listed = f"`{models[0].name}`" + (f" and {len(models) - 1} more" if len(models) > 1 else "")
        figures = [cell([levels[level] for levels in cases if level in levels]) for level in SHOWN]
        if not cases:
            figures[0] = "written once" if models[0].neutral else "not measured"
        lines.append(f"| {family} | {system} | {listed} | {count} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def speed() -> str:
    """One row per timed model, with the ratios to what else computes the same."""
    columns = {  # heading -> how the names of its ratios begin
        "PyTorch over its reference": ("ours / torchvision.", "ours / timm.", "ours / transformers."),
        "`tf.function` over keras.applications": ("ours / keras.applications.",),
        "our ONNX over the reference's": ("our ONNX file / ",),
        "TensorFlow's ONNX over PyTorch's": ("TensorFlow's ONNX / ",),
    }
    lines = ["| model | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for measured in json.loads(SPEED.read_text(encoding="utf-8"))["models"]:
        cells = []
        for begins in columns.values():
            found = [ratio["median"] for name, ratio in measured["ratios"].items() if name.startswith(begins)]
            cells.append(f"{found[0]:.2f}" if found else "")
        lines.append(f"| `{measured['model']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """The README with the tables as they should be now.

    Raises:
        ValueError: if a line that encloses a table is missing.
    """
    for name, table in (("systems", systems), ("speed", speed)):
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in text or end not in text:
            raise ValueError(f"README.md must hold the lines {begin!r} and {end!r}, which enclose a table")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n\n{table()}\n\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
