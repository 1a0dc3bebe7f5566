"""The documentation: its commands run as they are printed, and its reference says all that the program takes."""

import json
import os
import re
from pathlib import Path

import pytest
from docsite import block_diagrams, cli_pages, console_pages, hooks, house, pictures, schema_pages

from tests.support.command import ROOT, Resx

DOCS = ROOT / "docs"
WITH_COMMANDS = [
    "tutorial.md",
    "how-to/pytorch-model.md",
    "how-to/train-on-a-folder.md",
    "how-to/fine-tuning.md",
    "how-to/evaluate.md",
    "how-to/compare.md",
    "how-to/from-fastapi.md",
    "how-to/from-triton.md",
    "how-to/reproduce-veit.md",
    "how-to/library.md",
    "how-to/share.md",
    "reference/python.md",
]


_INVALID = re.compile(r"INVALID(?: at [^:]+)?: (.*)")
_LATE = re.compile(r"[\d.]+% of the requests were sent over .* the client lacked CPU time;")


def is_of_a_busy_machine(command: str, code: int, output: str) -> bool:
    """Say whether a measurement ended as it has to where other programs take the processor, and for nothing else."""
    reasons, errors = _INVALID.findall(output), re.findall(r"error: (.*)", output)
    is_late = bool(reasons) and all(_LATE.match(reason) for reason in reasons)
    return command.startswith("resx bench ") and code == 1 and is_late and len(errors) == 1 and "INVALID" in errors[0]


@pytest.mark.triton
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_block_of_a_page_runs(name: str, tmp_path: Path) -> None:
    console_pages.prepare(tmp_path)
    steps = console_pages.steps_of((DOCS / name).read_text())
    try:
        for step, code, output in console_pages.run(steps, tmp_path, os.environ):
            assert code == 0 or is_of_a_busy_machine(step.text, code, output), f"{step.text}: {output}"
    finally:
        list(console_pages.run([console_pages.Step(place=0, text="resx stop")], tmp_path, os.environ))


def test_only_a_load_that_was_sent_late_counts_as_a_busy_machines() -> None:
    late = "3.5% of the requests were sent over 1.0 ms late: the client lacked CPU time; stop other programs\n"
    assert is_of_a_busy_machine(
        "resx bench a", 1, f"  50/s poisson: INVALID: {late}error: INVALID at 50/s poisson: {late}"
    )
    wrong = f"error: INVALID at 50/s poisson: 2 of 9 sampled answers are wrong; {late}"
    for command, code, output in [
        ("resx bench a", 1, wrong),
        ("resx bench a", 1, f"  9/s: INVALID: no request was answered in the window\nerror: INVALID at 50/s: {late}"),
        ("resx bench a", 4, f"error: INVALID at 50/s poisson: {late}"),
        ("resx bench a", 1, f"error: INVALID at 50/s poisson: {late}error: no such file\n"),
        ("resx tune a", 1, f"error: INVALID at 50/s poisson: {late}"),
        ("resx bench a", 0, ""),
    ]:
        assert not is_of_a_busy_machine(command, code, output), output


def test_every_page_with_commands_is_run() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "```console" in path.read_text()}
    assert pages == set(WITH_COMMANDS)


def test_a_page_gets_what_its_commands_print(tmp_path: Path) -> None:
    page = '```python title="a.py"\nprint(7)\n```\n\n```console\n$ python a.py\nold\n$ echo b\\\n    c :8000\n```\n'
    steps = console_pages.steps_of(page)
    outputs = {step.place: output for step, _, output in console_pages.run(steps, tmp_path, os.environ)}
    assert console_pages.write_outputs(page, outputs).endswith(
        "$ python a.py\n7\n$ echo b\\\n    c :8000\nb c :8000\n```\n"
    )


@pytest.mark.parametrize("path", [path for path in cli_pages.render_pages() if not path.endswith("index.md")])
def test_a_commands_page_has_the_options_of_its_help(path: str, resx: Resx) -> None:
    shown = resx(Path(path).stem, "--help").out
    options = set(re.findall(r"^│ (?:-\w, )?(--[a-z0-9-]+)", shown, flags=re.MULTILINE)) - {"--help"}
    documented = set(re.findall(r"`(--[a-z0-9-]+)`", cli_pages.render_pages()[path]))
    assert options <= documented


@pytest.mark.parametrize(("name", "colors"), [("light", pictures.LIGHT), ("dark", pictures.DARK)])
def test_the_pictures_are_those_that_the_command_draws(name: str, colors: pictures.Colors) -> None:
    servers = pictures.read_servers((DOCS / "benchmarks.md").read_text())
    assert {"resnet20", "resnet50"} <= set(servers)
    assert (DOCS / f"assets/servers-{name}.svg").read_text() == pictures.draw_servers(servers, colors), (
        "make docs-pictures"
    )
    assert (DOCS / f"assets/house-{name}.svg").read_text() == house.draw_house(house.read_layers(), colors), (
        "make docs-pictures"
    )
    assert (DOCS / f"assets/line-{name}.svg").read_text() == pictures.draw_line(colors), "make docs-pictures"
    for diagram, panels in block_diagrams.DIAGRAMS.items():
        drawn = block_diagrams.draw_diagram(panels, colors)
        assert (DOCS / f"assets/blocks-{diagram}-{name}.svg").read_text() == drawn, "make docs-pictures"


def test_every_picture_of_a_page_is_shown_for_light_and_for_dark_pages() -> None:
    for page in DOCS.rglob("*.md"):
        shown = re.findall(r"\]\(((?:\.\./)?assets/[a-z-]+)-(light|dark)\.svg#only-(light|dark)\)", page.read_text())
        assert all(look == only for _, look, only in shown), page
        both = {name: {look for one, look, _ in shown if one == name} for name, _, _ in shown}
        assert all(looks == {"light", "dark"} for looks in both.values()), page
        assert all((page.parent / f"{name}-{look}.svg").is_file() for name in both for look in ("light", "dark")), page


def test_a_page_has_to_end_with_where_to_go() -> None:
    assert hooks.leads_on("# A\n\ntext\n\n**Next:** [B](b.md).\n")
    assert hooks.leads_on("# A\n\n**Next:** [B](b.md) goes\non.\n")
    assert not hooks.leads_on("# A\n\n**Next:** [B](b.md).\n\nmore\n")
    assert not hooks.leads_on("# A\n\n**Next:** B.\n")


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:src|docs|tests)/[^`]+)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == [
        "src/resx/zoo/families/nin.py",
        "src/resx/serving/embedded/backends/NAME/model.py",
    ]
    assert text.count("\n") <= 120


def test_the_recorded_terminal_loads_nothing_from_elsewhere() -> None:
    text = (DOCS / "assets/session.svg").read_text()
    assert "resx query digits" in text.replace("&#160;", " ")
    assert "url(" not in re.sub(r"url\(#", "", text)


@pytest.mark.parametrize("name", schema_pages.names())
def test_every_field_of_a_schema_is_in_a_table(name: str) -> None:
    text = "".join(page for path, page in schema_pages.render_pages().items() if f"/{name}" in path)
    schema = json.loads((DOCS / f"{name}.schema.json").read_text())
    fields = {field for one in (schema, *schema["$defs"].values()) for field in one.get("properties", {})}
    assert len(fields) > 20
    assert [field for field in sorted(fields) if f"| `{field}`" not in text] == []
    assert "{{" not in text
