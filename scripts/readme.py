"""The README's tables, written from the catalogue and the last saved proof: ``python -m scripts.readme``."""

from pathlib import Path

from scripts.parity import LEVELS, saved
from weights import catalog

__all__ = ["README", "updated"]

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- systems: written by `python -m scripts.readme` -->"
END = "<!-- end of systems -->"
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


def updated(text: str) -> str:
    """The README with the table as it should be now.

    Raises:
        ValueError: if a line that encloses the table is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md must hold the lines {BEGIN!r} and {END!r}, which enclose the table")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{systems()}\n\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
