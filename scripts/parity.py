"""``diptych parity``: measure the levels of the proof, show them, and keep them, one file per system."""

import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click

from parity_tests.saved import FOLDER, DamagedProof, path_of, read
from scripts.output import Problem, frameworks, line, print_json, table, written
from weights import catalog

__all__ = [
    "COLUMNS",
    "LEVELS",
    "PROOF",
    "measure",
    "measured_in_turn",
    "merged",
    "parity",
    "proof_states",
    "rows_of",
    "save",
    "saved",
    "source_of",
    "what_is_kept",
]

PROOF = FOLDER
LEVELS = ("interface", "initial", "outputs", "losses", "gradients", "training", "onnx", "results", "reference")
FILES = ("initial", "onnx", "results")  # they share float32 twins and their files, half the time of a case
COLUMNS = ["case", "level", "worst", "bound", "", "what"]


def rounded(figure: float) -> float | None:
    """Three significant digits; None for infinity and NaN, which JSON has not."""
    return float(f"{figure:.3g}") if abs(figure) < float("inf") else None


def saved() -> dict:
    """The cases of the saved proof by name; none if there is no such folder yet.

    Raises:
        Problem: if a file is damaged.
    """
    try:
        return read(PROOF)
    except DamagedProof as error:
        raise Problem(f"{error}; remove it and measure again: diptych parity --all --save") from None


def proof_states() -> dict[str, str]:
    """Of every measured model: "proven" if all levels of all its cases hold, else "broken" or "partly measured".

    A model without a case is "proven as" the first one of its system, if all of them are proven: it is the same code at
    another size, and its tensors and parameter count have separate tests.
    """
    found: dict[str, str] = {}
    for case in saved().values():
        levels = case["levels"]
        if not all(level["holds"] for level in levels.values()):
            state = "broken"
        elif set(levels) < set(LEVELS):
            state = "partly measured"
        else:
            state = "proven"
        order = ("broken", "partly measured", "proven")  # the worst of a model's cases counts
        found[case["model"]] = min(state, found.get(case["model"], "proven"), key=order.index)
    systems: dict[tuple, list[str]] = {}
    for model in catalog.load().values():
        systems.setdefault((model.system, model.module), []).append(model.name)
    for names in systems.values():
        measured = [name for name in names if name in found]
        if measured and all(found[name] == "proven" for name in measured):
            found |= {name: f"proven as {measured[0]}" for name in names if name not in found}
    return found


def what_is_kept(measured) -> dict:
    """What the saved proof keeps of a level.

    Args:
        measured: the ``Level`` of the harness.

    Returns:
        A part of a case's entry, for ``merged``.
    """
    row = {
        "figure": rounded(measured.worst.relative) if measured.applies else None,
        "name": measured.worst.name,
        "bound": measured.bound,
        "holds": measured.holds,
        "reason": measured.reason,
    }
    found: dict = {"levels": {measured.level: row}, "onnx": {}, "seconds": measured.seconds}
    if measured.level == "interface":
        found["parameters"] = measured.details["parameters"]
    if measured.level == "onnx":
        found["onnx"] = {
            form: {
                panel: {key: numbers[key] for key in ("nodes", "bytes", "transposes")}
                for panel, numbers in panels.items()
                if panel != "signatures"
            }
            for form, panels in measured.details.items()
        }
    return found


def source_of(name: str) -> dict:
    """What the figures of a case belong to: the model, digests of the sources, versions of the packages."""
    from importlib.metadata import version

    from parity_tests.harness import digest
    from parity_tests.harness.case import cases

    return {
        "model": cases()[name].model,
        "versions": {package: version(package) for package in digest.PACKAGES},
        "digest": digest.of_case(name),
        "harness": digest.of_harness(),
    }


def measure(name: str, levels: Sequence[str], trace: bool = False, tell=lambda level: None) -> dict:
    """Measure levels of one case.

    A level that raises is broken, and its figure says why.

    Args:
        name: of the case.
        levels: to measure.
        trace: whether to also look for the first module that diverges.
        tell: called with each level before it is measured.

    Returns:
        A case's entry of the saved proof, plus ``seconds``, and ``trace`` if requested.
    """
    frameworks(threads=1)  # a case is small: more threads only wait for each other
    from parity_tests.harness.case import cases
    from parity_tests.harness.measure import BOUNDS, Proof

    case = cases()[name]
    proof = Proof(case)
    start = time.perf_counter()
    parts = []
    for level in levels:
        tell(level)
        try:
            parts.append(what_is_kept(proof.level(level)))
        except Exception as error:  # whatever stops a level leaves it unproven; the next one is measured anyway
            bound, reason = case.bounds.get(level, (BOUNDS[level], ""))
            what = f"{type(error).__name__}: {line(error)}"
            row = {"figure": None, "name": what, "bound": bound, "holds": False, "reason": reason}
            parts.append({"levels": {level: row}, "onnx": {}, "seconds": 0.0})
    found = merged(parts)
    if trace:
        tell("trace")
        try:
            rows = proof.trace()
        except Exception as error:
            found["trace"] = {"module": None, "error": f"{type(error).__name__}: {line(error)}"}
        else:
            first = next((row for row in rows if row["diverges"]), None)
            found["trace"] = {"modules": len(rows), **(first or {"module": None})}
            found["trace"] |= {key: rounded(first[key]) for key in ("input", "output") if first and first[key]}
    return found | source_of(name) | {"seconds": round(time.perf_counter() - start, 1)}


def merged(parts: Sequence[dict]) -> dict:
    """Merge the levels of one case that were measured separately."""
    levels = {level: row for part in parts for level, row in part["levels"].items()}
    return {
        **{key: value for part in parts for key, value in part.items()},
        "levels": {level: levels[level] for level in LEVELS if level in levels},
        "onnx": {form: files for part in parts for form, files in part["onnx"].items()},
        "seconds": sum(part["seconds"] for part in parts),
    }


def rows_of(name: str, found: dict, levels: Iterable[str] | None = None) -> list[list[str]]:
    """The measured levels of a case as rows of a table."""
    rows = []
    for level in levels or found["levels"]:
        row = found["levels"][level]
        applies = row["figure"] is not None or not row["holds"]
        figure = "does not apply" if not applies else "inf" if row["figure"] is None else f"{row['figure']:.2e}"
        why = f"{row['name']} ({row['reason']})" if row["reason"] and applies else row["name"] or row["reason"]
        rows.append([name, level, figure, f"{row['bound']:.0e}", "ok" if row["holds"] else "BROKEN", why])
    return rows


def traced(found: dict) -> str:
    """What the trace of a case says."""
    trace = found["trace"]
    if "error" in trace:
        return f"could not be traced: {trace['error']}"
    if trace["module"] is None:
        return f"no module diverges; {trace['modules']} compared in execution order"
    figures = ", ".join(f"{key} {trace[key]:.2e}" for key in ("input", "output") if trace[key] is not None)
    what = "itself" if trace["diverges"] == "output" else "by what comes in, between this module and those before it"
    return f"the first module that diverges is {trace['module']}, {what} ({figures})"


def _chosen(names: Sequence[str], everything: bool) -> list[str]:
    from parity_tests.harness.case import cases, get

    if everything == bool(names):
        raise click.UsageError("either names of models and cases, or --all")
    if everything:
        return list(cases())
    chosen = []
    for name in names:
        found = get(name)
        if not found:
            model = catalog.get(name)
            others = [c.name for c in cases().values() if c.entry.module == model.module]
            raise Problem(f"{name} has no case of its own; cases of its file: {', '.join(others) or 'none'}")
        chosen += [case.name for case in found]
    return list(dict.fromkeys(chosen))


@contextlib.contextmanager
def _progress(total: int) -> Iterator:
    """A bar on the terminal's error stream; a function that advances it and shows what is measured."""
    if not sys.stderr.isatty():
        yield lambda text="", advance=0: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def tell(text: str | None = None, advance: int = 0):
            bar.update(task, advance=advance, **({"description": text} if text else {}))

        yield tell


def _end_with_parent() -> None:
    """In a process of a pool: end when the one that started it does, even if it was killed."""
    import multiprocessing

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def measured_in_turn(
    names: Sequence[str], steps: int, jobs: int, *parts: Callable[..., dict]
) -> Iterator[tuple[str, list[dict]]]:
    """Every case with what each ``part(name, tell=...)`` finds, in the order of the names, under a bar.

    Args:
        names: of cases.
        steps: how often all parts together report what comes next.
        jobs: processes, between which the parts are shared.
        parts: picklable if there are several processes.
    """
    with _progress(len(names) * steps) as tell:
        if jobs == 1 or len(names) * len(parts) == 1:
            for name in names:
                done = 0

                def next_step(step, name=name):
                    nonlocal done
                    tell(f"{name}: {step}", advance=min(done, 1))
                    done += 1

                yield name, [part(name, tell=next_step) for part in parts]
                tell(advance=1)
            return
        import concurrent.futures
        import multiprocessing

        pool = concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _end_with_parent)
        try:
            waiting = {name: [pool.submit(part, name) for part in parts] for name in names}
            for name, futures in waiting.items():
                tell(name)
                yield name, [future.result() for future in futures]
                tell(advance=steps)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()


def save(measured: dict[str, dict]) -> None:
    """Merge measurements into the files of their systems: measured levels replace older ones.

    Cases that are no longer there are dropped from a file that is written.
    """
    from parity_tests.harness.case import cases as known

    by_file: dict[Path, dict] = {}
    for name, new in measured.items():
        by_file.setdefault(path_of(new["model"], PROOF), {})[name] = new
    for path, new_cases in by_file.items():
        cases = {name: case for name, case in read(path).items() if name in known()}
        for name, new in new_cases.items():
            new = {key: value for key, value in new.items() if key not in ("seconds", "trace")}
            old = cases.get(name, {"levels": {}, "onnx": {}})
            # levels that were measured for other sources are no longer true
            kept = old["levels"] if old.get("digest") == new["digest"] else {}
            levels = kept | new["levels"]
            order = {level: levels[level] for level in LEVELS if level in levels}
            cases[name] = old | new | {"levels": order, "onnx": new["onnx"] or old["onnx"]}
        with written(path) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"cases": dict(sorted(cases.items()))}, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def parity(
    names: Sequence[str], everything: bool, levels: Sequence[str], trace: bool, to_file: bool, jobs: int, as_json: bool
) -> int:
    """Measure cases and show them; 1 if a level is broken."""
    chosen = _chosen(names, everything)
    if to_file:
        saved()  # a damaged file is reported before an hour of measuring
    wanted = [level for level in LEVELS if level in levels] or list(LEVELS)
    found = {}
    piped = not as_json and not sys.stdout.isatty()
    widths = (max(map(len, chosen)), 9, 14, 5, 6)
    if piped:  # a line as soon as there is one
        click.echo("  ".join([column.ljust(width) for column, width in zip(COLUMNS, widths)] + COLUMNS[5:]))
    files, others = [level for level in wanted if level in FILES], [level for level in wanted if level not in FILES]
    parts = [functools.partial(measure, levels=files)] if files else []
    parts += [functools.partial(measure, levels=others, trace=trace)] if others or trace else []
    for name, measured in measured_in_turn(chosen, len(wanted) + trace, jobs, *parts):
        found[name] = measured = merged(measured)
        if piped:
            for row in rows_of(name, measured):
                click.echo("  ".join([cell.ljust(width) for cell, width in zip(row, widths)] + row[5:]).rstrip())
            if trace:
                click.echo(f"{name}: {traced(measured)}")
    holds = all(row["holds"] for measured in found.values() for row in measured["levels"].values())
    if trace:
        holds = holds and all("modules" in m["trace"] and m["trace"]["module"] is None for m in found.values())
    if to_file:
        save(found)
    if as_json:
        print_json({"holds": holds, "cases": found})
    elif not piped:
        rows = [row for name, measured in found.items() for row in rows_of(name, measured)]
        table(COLUMNS, rows, right=["worst", "bound"])
        for name, measured in found.items():
            if trace:
                click.echo(f"{name}: {traced(measured)}")
    if not as_json:
        seconds = sum(measured["seconds"] for measured in found.values())
        broken = sum(not row["holds"] for measured in found.values() for row in measured["levels"].values())
        levels_measured = sum(len(measured["levels"]) for measured in found.values())
        state = f"{broken} BROKEN" if broken else "all hold"
        click.echo(f"{len(found)} cases, {levels_measured} levels, {state}, {seconds:.0f} s")
        if to_file:
            click.echo(f"saved in {PROOF}")
    return 0 if holds else 1
