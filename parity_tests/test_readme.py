"""The README is true: its table is current, its commands exist, its Python runs."""

import re

import pytest
from click.testing import CliRunner

from parity_tests.harness.case import cases
from scripts.cli import main
from scripts.parity import saved
from scripts.readme import README, updated
from weights import catalog

TEXT = README.read_text(encoding="utf-8")


def test_the_tables_name_every_family_and_no_level_is_broken():
    """Counts and figures are those of the last `python -m scripts.readme`: adding a system edits no line here."""
    rows = re.findall(r"^\| (\w+) \| \d+ \|", TEXT, re.MULTILINE)
    assert rows == catalog.families(), "run: python -m scripts.readme"
    assert "BROKEN" not in updated(TEXT)


def test_the_saved_proof_holds_every_case_and_no_other():
    assert set(saved()) == set(cases()), "run: diptych parity NAME --save"


@pytest.mark.parametrize("line", re.findall(r"^(?:scripts/)?diptych (.+)$", TEXT, re.MULTILINE))
def test_every_command_is_one(line):
    """Options are known; `list` and `show`, which need no framework, are run as they stand."""
    words = line.split("#")[0].split()
    command = main.commands[words[0]]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options
    result = CliRunner().invoke(main, words if words[0] in ("list", "show") else [words[0], "--help"])
    assert result.exit_code == 0, result.output


def test_lines_that_enclose_the_table_are_needed():
    with pytest.raises(ValueError, match="must hold the lines"):
        updated("no table")
