"""The README's tables, from the catalogue, the saved proof and the saved timings: ``python -m scripts.readme``."""

import json
from pathlib import Path

from scripts.parity import LEVELS, saved
from weights import catalog

__all__ = ["README", "updated"]

README = Path(__file__).parent.parent / "README.md"
SPEED = Path(__file__).parent / "speed.json"  # what `diptych bench ... --against reference --json` prints
PARTS = Path(__file__).parent / "speed_parts.json"  # what `python -m scripts.speed_parts` keeps
BEGIN = "<!-- {}: written by `python -m scripts.readme` -->"
END = "<!-- end of {} -->"
REFERENCES = ("torchvision", "timm", "transformers", "segmentation_models_pytorch")
PACKAGES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
SHOWN = [level for level in LEVELS if level not in ("interface", "initial")]


def cell(levels: list[dict]) -> str:
    """The worst figure of a level over several cases; blank if it applies to none of them."""
    if any(not level["holds"] for level in levels):
        return "**BROKEN**"
    figures = [level["figure"] for level in levels if level["figure"] is not None]
    return f"{max(figures):.0e}" if figures else ""


def families() -> str:
    """One row per family: what it holds, and the worst figure of every level over all its cases."""
    proof = saved()
    lines = [
        "| family | systems | models | cases | " + " | ".join(SHOWN) + " |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(SHOWN),
    ]
    for family in catalog.families():
        models = {name: model for name, model in catalog.load().items() if model.family == family}
        cases = [case["levels"] for case in proof.values() if case["model"] in models]
        figures = [cell([levels[level] for levels in cases if level in levels]) for level in SHOWN]
        counts = [len({model.system for model in models.values()}), len(models), len(cases)]
        lines.append(f"| {family} | " + " | ".join([*map(str, counts), *figures]) + " |")
    return "\n".join(lines)


def speed() -> str:
    """How times were measured, and one row per model with the ratios to other implementations."""
    timed = json.loads(SPEED.read_text(encoding="utf-8"))
    versions = [f"{title} {timed['versions'][package]}" for package, title in PACKAGES.items()]
    how = f"Median of {timed['runs']} rounds, of 5 for detectors and segmenters of instances, batch {timed['batch']}, "
    how += f"texts of {timed['length']} tokens, {timed['threads']['torch']} threads; {', '.join(versions)}."
    columns = {  # heading -> how the names of its ratios begin
        "`tf.function` over PyTorch": ("TensorFlow / ",),
        "PyTorch over its reference": tuple(f"ours / {package}." for package in REFERENCES),
        "`tf.function` over keras.applications": ("ours / keras.applications.",),
        "our ONNX over the reference's": ("our ONNX file / ",),
        "TensorFlow's ONNX over PyTorch's": ("TensorFlow's ONNX / ",),
    }
    lines = [how, "", "| model | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for measured in timed["models"]:
        cells = []
        for begins in columns.values():
            found = [ratio["median"] for name, ratio in measured["ratios"].items() if name.startswith(begins)]
            cells.append(f"{found[0]:.2f}" if found else "")
        lines.append(f"| `{measured['model']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts() -> str:
    """One row per part: milliseconds of PyTorch, the ratios to others and between the panels, and peaks of memory."""
    timed = json.loads(PARTS.read_text(encoding="utf-8"))
    versions = ", ".join(f"{package} {number}" for package, number in timed["versions"].items())
    between = {  # heading -> ratio
        "`tf.function` over PyTorch": "TensorFlow / PyTorch",
        "PyTorch's ONNX over PyTorch": "PyTorch's ONNX / PyTorch",
        "TensorFlow's ONNX over PyTorch's": "TensorFlow's ONNX / PyTorch's ONNX",
    }
    headings = ["part", "PyTorch, ms", "over another implementation", *between, "peak memory, ours and the other's"]
    lines = [
        f"Median of {timed['runs']} rounds, of {timed['few_runs']} for training steps; threads: {timed['threads']}; "
        f"{versions}.",
        "",
        f"| {' | '.join(headings)} |",
        "| --- |" + " ---: |" * (len(headings) - 1),
    ]
    for part in (part for group in timed["groups"].values() for part in group):
        ratios = {name: f"{ratio['median']:.2f}" for name, ratio in part["ratios"].items()}
        others = [f"{value} {name.removeprefix('PyTorch / ')}" for name, value in ratios.items() if "PyTorch /" in name]
        median = part["milliseconds"]["PyTorch"]["median"]
        shown = f"{median:.0f}" if median >= 100 else f"{median:.3g}"
        memory = ", ".join(f"{share:.1f}" for share in part.get("memory", {}).values())
        cells = [part["part"], shown, "".join(others), *(ratios.get(name, "") for name in between.values()), memory]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """The README with its tables up to date.

    Raises:
        ValueError: if a line that encloses a table is missing.
    """
    for name, table in (("families", families), ("speed", speed), ("parts", parts)):
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in text or end not in text:
            raise ValueError(f"README.md must hold the lines {begin!r} and {end!r}, which enclose a table")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n\n{table()}\n\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
