"""Shared knowledge of the report's pages: systems, paths, worst figures, and where lines are."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from scripts.report import charts, code, notes
from weights import catalog

__all__ = ["Links", "Site", "bound", "figure", "slug"]


def figure(value: float | None) -> str:
    """A difference in two digits; equal values are "equal"."""
    return "inf" if value is None else "equal" if value == 0 else f"{value:.1e}".replace("e-0", "e-")


def bound(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value else "equal"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "system"


class Site:
    """Everything that the pages need to know about each other.

    Args:
        models: of the catalogue, by name.
        proof: the cases of the saved proof.
        details: of the cases that were measured for these sources.
        cases: case -> model, of all cases that there are.
    """

    def __init__(
        self,
        models: Mapping[str, catalog.Model],
        proof: Mapping[str, dict],
        details: Mapping[str, dict],
        cases: Mapping[str, str],
    ):
        self.proof, self.details, self.cases = proof, details, cases
        self.systems: dict[tuple[str, str], list[catalog.Model]] = {}
        for model in models.values():
            self.systems.setdefault((model.family, model.system), []).append(model)
        self.path: dict[tuple[str, str], str] = {}
        self.page_of: dict[str, str] = {}  # file -> page
        for key, of_system in self.systems.items():
            path = f"{slug(key[0])}/{slug(key[1])}"
            while f"{path}.html" in self.path.values():
                path += "-"
            self.path[key] = f"{path}.html"
            self.page_of.setdefault(self.file(of_system[0]), self.path[key])
        others = {self.file(model) for model in catalog.load().values() if not model.neutral} - self._imported()
        self.shared = [file for file in notes.files() if file not in self.page_of and file not in others]
        for file in self.shared:
            self.page_of[file] = f"files/{slug(file.removesuffix('.py'))}.html"

    @staticmethod
    def file(model: catalog.Model) -> str:
        return f"{model.module.replace('.', '/')}.py"

    def _imported(self) -> set[str]:
        """The files that those of the systems import, directly or not."""
        found, queue = set(), list(self.page_of)
        while queue:
            file = queue.pop()
            if file not in found:
                found.add(file)
                queue += code.imports(file)
        return found

    def cases_of(self, of_system: Iterable[catalog.Model]) -> list[str]:
        names = {model.name for model in of_system}
        return [case for case, model in self.cases.items() if model in names]

    def measured(self, level: str, cases: Iterable[str]) -> dict:
        """A level over several cases: the worst figure, its bound, and "holds", "broken", "not run" or "none"."""
        rows = [self.proof[case]["levels"].get(level) for case in cases if case in self.proof]
        missing = sum(row is None for row in rows) + sum(case not in self.proof for case in cases)
        rows = [row for row in rows if row is not None]
        applying = [row for row in rows if row["figure"] is not None or not row["holds"]]
        if not applying:
            return {"level": level, "state": "not run" if missing or not rows else "none"}
        worst = max(applying, key=lambda row: float("inf") if row["figure"] is None else row["figure"] / _bound(row))
        state = "holds" if all(row["holds"] for row in rows) else "broken"
        found = {"level": level, "state": state, "figure": worst["figure"], "bound": worst["bound"]}
        label = f"{level}: {figure(worst['figure'])}, bound {bound(worst['bound'])}"
        label += f"; {missing} of {missing + len(rows)} cases not run" if missing else ""
        bar = charts.level(worst["figure"], worst["bound"], state == "holds", label)
        return found | {"bar": bar, "partly": bool(missing), "name": worst["name"], "reason": worst["reason"]}


def _bound(row) -> float:
    return row["bound"] or 1e-17


class Links:
    """Addresses of lines, as seen from one page."""

    def __init__(self, site: Site, page: str, file: str):
        self.site, self.page, self.own = site, page, file

    def to(self, file: str, lines: Mapping[str, int | None]) -> str | None:
        """Lines of both panels of a file; those of the page's own file stay on the page."""
        anchors = ",".join(f"{code.SIDES[panel]}-{line}" for panel, line in lines.items() if line)
        target = "" if file == self.own else self.site.page_of.get(file)
        if not anchors or target is None:
            return None
        up = "../" * (len(PurePosixPath(self.page).parts) - 1)
        return f"#{anchors}" if not target else f"{up}{target}#{anchors}"

    def module(self, path: str, classes: Mapping[str, list[str]]) -> str | None:
        """Where a module of a model is defined, or where the nearest of our modules around it creates it."""
        whole = path
        while True:
            names = classes.get(path)
            if names and all(name.split(".")[0] == panel for name, panel in zip(names, notes.PANELS)):
                places = [name.split(":") for name in names]
                files = {place[0].partition(".")[2].replace(".", "/") + ".py" for place in places}
                own = not {place[0].split(".")[1] for place in places} <= {"layers"}
                if len(files) == 1 and (file := next(iter(files))) in self.site.page_of and (path != whole or own):
                    attribute = whole[len(path) :].lstrip(".").split(".")[0] or None
                    lines = {
                        panel: code.line_of(panel, file, place[1], attribute)
                        for panel, place in zip(notes.PANELS, places)
                    }
                    return self.to(file, lines)
            if not path:
                return None
            path = path.rpartition(".")[0]
