"""``diptych report``: a static site of both panels and of what was measured between them."""

from collections.abc import Sequence
from pathlib import Path

import click

from scripts.output import Problem, print_json, written
from scripts.parity import measured_in_turn, saved
from weights import catalog

__all__ = ["report"]


def _chosen(names: Sequence[str]) -> dict[str, catalog.Model]:
    """The models of the named systems, by a model's or the system's name; all without a name.

    What is written only once has no second panel to compare.
    """
    models = {name: model for name, model in catalog.load().items() if not model.neutral}
    if not names:
        return models
    systems = set()
    for name in names:
        by_title = {(m.family, m.system) for m in models.values() if m.system.lower() == name.lower()}
        model = None if by_title else catalog.get(name)
        if model and model.neutral:
            raise Problem(f"{name} needs no framework and is written once; read it with: diptych show {name}")
        systems |= by_title or {(model.family, model.system)}
    return {name: model for name, model in models.items() if (model.family, model.system) in systems}


def _learned() -> dict[str, dict]:
    """The saved trainings."""
    from parity_tests.learning import curves
    from parity_tests.saved import DamagedProof

    try:
        return curves.read()
    except DamagedProof as error:
        raise Problem(f"{error}; write it again with: python -m parity_tests.learning") from None


def report(names: Sequence[str], out: Path, measure: bool, jobs: int, as_json: bool) -> None:
    """Write the site; with ``measure``, first run what the cache lacks."""
    models = _chosen(names)
    proof = saved()
    from parity_tests.harness.case import cases
    from scripts.report import details, pages

    if out.exists() and not out.is_dir():
        raise Problem(f"{out}: is a file, and a folder was expected; choose another place with --out")
    wanted = [case for case in cases().values() if case.model in models]
    found = {case.name: kept for case in wanted if (kept := details.read(case))}
    missing = [case for case in wanted if case.name not in found]
    if measure and missing:
        names = [case.name for case in missing]
        found |= {name: one for name, (one,) in measured_in_turn(names, len(details.PARTS), jobs, details.measure)}
        missing = []
    site = pages.render(
        models,
        {case.name: proof[case.name] for case in wanted if case.name in proof},
        {case.name: found[case.name] for case in wanted if case.name in found},
        {case.name: case.model for case in wanted},
        learned={name: run for name, run in _learned().items() if run["model"] in models},
    )
    for path, text in site.items():
        target = out / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(f"{target.parent}: cannot be made ({error.strerror}); choose another place") from None
        with written(target) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    left = [case.name for case in missing]
    if as_json:
        print_json(
            {
                "out": str(out),
                "pages": list(site),
                "cases": len(wanted),
                "not in the saved proof": [case.name for case in wanted if case.name not in proof],
                "details not run": left,
            }
        )
        return
    click.echo(f"{len(site)} pages of {len(wanted)} cases: open {out / 'index.html'}")
    if left:
        click.echo(f"details of {len(left)} cases were not run, and are marked so; --measure runs them")
