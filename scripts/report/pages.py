"""The pages of the report, from the catalogue, the saved proof, the details and the sources: no clock, no chance."""

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

import jinja2
from markupsafe import Markup

from parity_tests.harness.digest import PACKAGES
from parity_tests.learning import curves
from scripts.parity import LEVELS
from scripts.report import charts, code, notes
from scripts.report.site import Links, Site, bound, figure, slug
from weights import catalog

__all__ = ["render"]

LEVELS_SHOWN = [level for level in LEVELS if level not in ("interface", "initial")]
SINGLE = ("onnx", "results", "reference")  # levels that only exist in float32
TITLES = {"tf_impl": "TensorFlow", "torch_impl": "PyTorch"}
FILES = "shared files"  # the family of files that no entry of the catalogue is named for


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scripts.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bound": bound,
        "bytes": size_text,
        "dotted": dotted,
        "figure": figure,
        "number": "{:g}".format,
        "prose": prose,
        "times": times,
    }
    return environment


def size_text(count: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"


def times(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds >= 0.1 else f"{milliseconds * 1000:.3g} µs"


def prose(text: str) -> Markup:
    """Plain text in which double backticks enclose code."""
    pieces = text.split("``")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if i % 2 else Markup.escape(piece) for i, piece in enumerate(pieces)
    )


def dotted(path: str) -> Markup:
    """A dotted path that may wrap after its dots."""
    return Markup(".<wbr>").join(path.split("."))


def paper_link(paper: str) -> str | None:
    """The address of a paper, from "arXiv:1512.03385" or its DOI."""
    if match := re.fullmatch(r"arXiv:(\d{4}\.\d{4,5})", paper):
        return f"https://arxiv.org/abs/{match[1]}"
    return f"https://doi.org/{paper}" if re.fullmatch(r"10\.\d{4,}/[\w.()/:;-]+", paper) else None


def variant(site: Site, model: catalog.Model) -> dict:
    """A model with the state of its proof, the worst of its cases."""
    states = {site.measured(level, [case])["state"] for case in site.cases_of([model]) for level in LEVELS}
    order = ("broken", "not run", "holds", "none")
    return {
        "model": model,
        "inputs": [(name, tensor.shape, tensor.dtype) for name, tensor in model.inputs.items()],
        "options": ", ".join(f"{key}={value!r}" for key, value in model.options.items()),
        "state": min(states, key=order.index, default="no case"),
    }


def levels_of(site: Site, case: str) -> list[dict]:
    """The rows of a case's table of levels."""
    rows = []
    details = site.details.get(case, {}).get("levels", {})
    for level in LEVELS:
        row = site.measured(level, [case])
        double, single = row.get("figure"), None
        if level in SINGLE:
            double, single = None, double
        elif "float32" in details.get(level, {}):
            single = details[level]["float32"]["figure"]
        saved = site.proof.get(case, {}).get("levels", {}).get(level, {})
        rows.append(
            row
            | {
                "double": double,
                "single": single,
                "has_single": level in SINGLE or "float32" in details.get(level, {}),
                "reason": saved.get("reason", ""),
                "name": saved.get("name", ""),
            }
        )
    return rows


def onnx_of(numbers: Mapping[str, dict], saved: Mapping[str, dict]) -> list[dict]:
    """Both files of every variant: their contents, and the operators that only one of them has."""
    found = []
    for form in dict.fromkeys([*saved, *numbers]):
        sides = [{**saved.get(form, {}).get(panel, {}), **numbers.get(form, {}).get(panel, {})} for panel in TITLES]
        operators = []
        if all("operators" in side for side in sides):
            names = sorted({name for side in sides for name in side["operators"]})
            most = max((max(side["operators"].values(), default=1) for side in sides), default=1)
            for name in names:
                counts = [side["operators"].get(name, 0) for side in sides]
                label = f"{name}: {counts[0]} in TensorFlow's file, {counts[1]} in PyTorch's"
                operators.append(
                    {
                        "name": name,
                        "counts": counts,
                        "bar": charts.count_bar(counts, most, label),
                        "only": None if all(counts) else list(TITLES.values())[0 if counts[0] else 1],
                    }
                )
            operators.sort(key=lambda row: (-max(row["counts"]), row["name"]))
        found.append({"form": form, "sides": sides, "operators": operators})
    return found


def case_of(site: Site, case: str, links: Links) -> dict:
    """What the page shows of one case."""
    details = site.details.get(case)
    found = {
        "name": case,
        "levels": levels_of(site, case),
        "details": details,
        "trace": [],
        "gradients": [],
        "answers": [],
        "input": None,
    }
    found["parameters"] = site.proof.get(case, {}).get("parameters")
    found["onnx"] = onnx_of((details or {}).get("onnx", {}), site.proof.get(case, {}).get("onnx", {}))
    if details is None:
        return found
    classes = details.get("classes", {})
    for row in details.get("trace", ()):
        label = f"{row['module']}: float64 {figure(row['float64'])}, float32 {figure(row['float32'] or 0)}"
        names = classes.get(row["module"])
        found["trace"].append(
            row
            | {
                "link": links.module(row["module"], classes),
                "bar": charts.bar(row["float64"], row["float32"], label),
                "class": names[1].rpartition(":")[2] if names else "",
            }
        )
    for row in details.get("gradients", ()):
        path = row["name"].rpartition(".")[0]
        link = links.module(path, classes) if path in classes else None
        found["gradients"].append(row | {"link": link, "size": math.prod(row["shape"])})
    if latency := details.get("latency"):
        most = max(values["high"] for values in latency["milliseconds"].values())
        found["latency"] = [
            {
                "engine": engine,
                **values,
                "bar": charts.spread(
                    values["low"],
                    values["median"],
                    values["high"],
                    most,
                    style,
                    f"{engine}: median {times(values['median'])}, quartiles {times(values['low'])} to "
                    f"{times(values['high'])}",
                ),
            }
            for style, (engine, values) in zip(("tf", "pt"), latency["milliseconds"].items())
        ]
    if answers := details.get("answers"):
        kinds = {values["kind"] for values in answers["engines"].values()}
        if answers["picture"] and "boxes" not in kinds:
            found["input"] = charts.picture(answers["picture"], answers["size"], "The sample picture")
        found["answers"] = [
            {
                "engine": engine,
                "found": values,
                "difference": answers["differences"][engine],
                "drawing": charts.answer(engine, values, answers["picture"], answers["size"]),
            }
            for engine, values in answers["engines"].items()
        ]
    return found


def notes_of(file: str) -> list[dict]:
    return [
        {
            "number": note.number,
            "text": note.text,
            "topic": note.topic,
            "anchor": slug(note.topic),
            "href": "#" + ",".join(f"{code.SIDES[p]}-{line}" for p in notes.PANELS for line in note.places[p][:1]),
        }
        for note in notes.in_file(file)
    ]


def idioms(site: Site) -> list[dict]:
    """Topics with their notes; a note that several files have is one entry."""
    links = Links(site, "idioms.html", "")
    topics: dict[str, dict[str, dict]] = {}
    cases_of: dict[str, list[str]] = {}
    for of_system in site.systems.values():
        cases_of.setdefault(site.file(of_system[0]), []).extend(site.cases_of(of_system))
    for note in notes.notes():
        if note.file not in site.page_of:
            continue
        entry = {"text": note.text, "files": [], "excerpts": [], "cases": []}
        entry = topics.setdefault(note.topic, {}).setdefault(note.text, entry)
        entry["cases"] += cases_of.get(note.file, [])
        lines = {
            panel: note.places[panel][0] if note.places[panel] else note.listed[panel][0] for panel in notes.PANELS
        }
        entry["files"].append({"file": note.file, "href": links.to(note.file, lines)})
        if not entry["excerpts"]:
            for panel in notes.PANELS:
                coloured = code.lines(notes.sources(note.file)[panel])
                numbers = note.places[panel][:3] or list(range(note.listed[panel][0], note.listed[panel][1] + 1))
                entry["excerpts"].append(
                    {
                        "title": TITLES[panel],
                        "path": f"{panel}/{note.file}",
                        "href": links.to(note.file, {panel: lines[panel]}),
                        "side": code.SIDES[panel],
                        "lines": [{"number": n, "html": excerpt(coloured[n - 1])} for n in numbers],
                    }
                )
    for entries in topics.values():
        for entry in entries.values():
            entry["outputs"] = site.measured("outputs", entry["cases"]) if entry["cases"] else None
    return [
        {"topic": topic, "anchor": slug(topic), "entries": list(entries.values())} for topic, entries in topics.items()
    ]


def learning(site: Site, learned: Mapping[str, dict]) -> dict:
    """Trainings by family, with their curves, how far the panels agree, and what the embeddings retrieve."""
    models = {model.name: model for of_system in site.systems.values() for model in of_system}
    families: dict[str, list[dict]] = {}
    for name, found in learned.items():
        model = models[found["model"]]
        double = found["losses"]["float64"]
        at = found["at"]["float64"]
        lines = []
        for loss, values in double["tf_impl"].items():
            panels = [double[panel][loss] for panel in TITLES]
            ends = [f"{values[i]:.3g}" for i in (0, -1)]
            drawn = charts.curve(at, panels, f"{loss} of {name} in both panels: from {ends[0]} to {ends[1]}")
            lines.append({"loss": loss, "first": ends[0], "last": ends[1], "curve": drawn})
        apart = [(found["at"][p], curves.apart(found["losses"][p]).tolist()) for p in curves.PRECISIONS]
        worst = ", ".join(f"{figure(found['worst'][p])} at most in {p}" for p in curves.PRECISIONS)
        entry = {
            "name": name,
            "model": model,
            "path": site.path[model.family, model.system],
            "steps": found["steps"],
            "lines": lines,
            "gap": charts.gap(apart, at[-1], f"Relative difference of the panels over the steps: {worst}"),
            "worst": found["worst"],
            "parted": found["parted"],
            "recall": found.get("recall"),
            "overlap": found.get("overlap"),
            "plane": None,
        }
        if plane := found.get("points"):
            label = f"Held-out digits as {name} places them, in both panels"
            entry["plane"] = charts.points([plane[panel] for panel in TITLES], plane["labels"], label)
        families.setdefault(model.family, []).append(entry)
    versions = {package: version for found in learned.values() for package, version in found["versions"].items()}
    return {"families": families, "single": curves.PRECISIONS["float32"], "versions": versions}


def excerpt(line: Markup) -> Markup:
    """A coloured line without its indentation and its mark."""
    line = re.sub(r'\s*<i class="o"># mirror: .*</i>$', "", line)
    return Markup(re.sub(r"; mirror: .*</i>$", "</i>", line).lstrip(" "))


def index(site: Site) -> dict:
    """The rows of the first page, by family, and the totals."""
    families: dict[str, list[dict]] = {}
    totals = dict.fromkeys(("holds", "broken", "not run", "none"), 0)
    for (family, system), models in site.systems.items():
        cases = site.cases_of(models)
        for case in cases:
            for level in LEVELS:
                totals[site.measured(level, [case])["state"]] += 1
        levels = [site.measured(level, cases) for level in LEVELS_SHOWN]
        states = {row["state"] for row in levels}
        state = next((s for s in ("broken", "not run") if s in states), "proven")
        if any(row.get("partly") for row in levels) and state == "proven":
            state = "not run"
        sizes = next(
            (site.proof[c]["onnx"]["model"] for c in cases if "model" in site.proof.get(c, {}).get("onnx", {})), None
        )
        counts = [model.parameters for model in models if model.parameters]
        detailed = sum(case in site.details for case in cases)
        words = [
            family,
            system,
            *(m.name for m in models),
            *(m.title for m in models),
            models[0].module,
            str(models[0].year),
        ]
        families.setdefault(family, []).append(
            {
                "id": slug(f"{family} {system}"),
                "system": system,
                "title": models[0].title,
                "year": models[0].year,
                "path": site.path[family, system],
                "models": models,
                "counts": (min(counts), max(counts)) if counts else None,
                "levels": levels,
                "state": state,
                "sizes": [sizes[panel]["bytes"] for panel in TITLES] if sizes else None,
                "cases": len(cases),
                "detailed": detailed,
                "kind": models[0].kind,
                "words": " ".join(words).lower(),
            }
        )
    versions = {
        package: sorted(
            {case["versions"][package] for case in site.proof.values() if package in case.get("versions", {})}
        )
        for package in PACKAGES
    }
    return {
        "families": families,
        "totals": totals,
        "systems": len(site.systems),
        "models": sum(map(len, site.systems.values())),
        "cases": len(site.cases),
        "detailed": sum(case in site.details for case in site.cases),
        "versions": versions,
        "levels": LEVELS_SHOWN,
    }


def _asset(name: str) -> str:
    return resources.files("scripts.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(
    models: Mapping[str, catalog.Model],
    proof: Mapping[str, dict],
    details: Mapping[str, dict],
    cases: Mapping[str, str],
    tell: Callable[[str], None] = lambda page: None,
    learned: Mapping[str, dict] | None = None,
) -> dict[str, str]:
    """All pages by path; arguments as of :class:`Site`, and ``learned``, the saved trainings of its models."""
    site = Site(models, proof, details, cases)
    environment = _environment()
    style, script = _asset("style.css"), _asset("report.js")
    # nothing is loaded from anywhere, and no script runs but this one
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    shared = {"style": Markup(style), "script": Markup(script), "policy": policy, "titles": TITLES, "sides": code.SIDES}
    shared["learned"] = bool(learned)

    def page(path: str, template: str, **context) -> str:
        tell(path)
        up = "../" * (len(PurePosixPath(path).parts) - 1)
        return environment.get_template(template).render(**shared, path=path, up=up, **context)

    overview = index(site)
    topics = idioms(site)
    overview["trainings"] = len(learned or ())
    overview["notes"] = sum(len(topic["entries"]) for topic in topics)
    shared_files = [{"file": file, "path": site.page_of[file]} for file in site.shared]
    rows = [row for family in overview["families"].values() for row in family]
    search = [{key: row[key] for key in ("id", "words", "kind", "state")} for row in rows]
    found = {
        "index.html": page("index.html", "index.html", overview=overview, shared_files=shared_files, search=search),
        "idioms.html": page("idioms.html", "idioms.html", topics=topics),
    }
    if learned:
        found["learning.html"] = page("learning.html", "learning.html", learning=learning(site, learned))
    for (family, system), of_system in site.systems.items():
        path, file = site.path[family, system], site.file(of_system[0])
        links = Links(site, path, file)
        papers = {(m.title, m.paper, m.year): paper_link(m.paper) for m in of_system}
        found[path] = page(
            path,
            "system.html",
            family=family,
            system=system,
            models=of_system,
            papers=papers,
            variants=[variant(site, model) for model in of_system],
            file=file,
            rows=code.rows(file),
            notes=notes_of(file),
            cases=[case_of(site, case, links) for case in site.cases_of(of_system)],
        )
    for file in site.shared:
        path = site.page_of[file]
        found[path] = page(
            path, "file.html", file=file, family=FILES, system=file, rows=code.rows(file), notes=notes_of(file)
        )
    return found
