"""Every command of the README runs, in its order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docsite import console_pages

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.triton
def test_the_readmes_commands_run(tmp_path: Path) -> None:
    steps = console_pages.steps_of(README.read_text())
    assert len(steps) >= 5
    console_pages.prepare(tmp_path)
    try:
        for step, code, output in console_pages.run(steps, tmp_path, os.environ):
            assert code == 0, f"{step.text}: {output}"
    finally:
        subprocess.run([sys.executable, "-m", "resx", "stop"], cwd=tmp_path, capture_output=True, check=False)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".staging")]  # noqa: PTH208


def test_the_readme_is_short_and_its_pictures_are_there() -> None:
    text = README.read_text()
    assert text.count("\n") < 150
    for picture in re.findall(r"(?:src|srcset)=\"([^\"]+)\"|!\[[^]]*\]\(([^)]+)\)", text):
        assert (README.parent / "".join(picture)).is_file(), picture


@pytest.mark.parametrize(
    ("page", "pattern", "rows"),
    [
        (
            "README.md",
            r"\[([\d.]+) times the images/s for resnet20 \(`--native`\); resnet50: ([\d.]+) in fp32, ([\d.]+) in bf16",
            [
                "resnet20 resx serve --native, fp32",
                "resnet50 resx serve --native, fp32",
                "resnet50 resx serve, OpenVINO bf16",
            ],
        ),
        (
            "docs/serving.md",
            r"images/s over FastAPI's [^|]+\| ([\d.]+) \| ([\d.]+) \|",
            ["resnet50 resx serve, fp32", "resnet50 resx serve --native, fp32"],
        ),
    ],
)
def test_the_ratios_to_fastapi_are_those_of_the_benchmarks(page: str, pattern: str, rows: list[str]) -> None:
    networks = (README.parent / "docs/benchmarks.md").read_text().split("\n## ")
    quoted = re.search(pattern, (README.parent / page).read_text())
    assert quoted is not None
    for name, figure in zip(rows, quoted.groups(), strict=True):
        network, _, server = name.partition(" ")
        (table,) = [one for one in networks if one.startswith(f"{network}\n")]
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {server} |")]
        ratio = float(row.split(" | ")[5].split()[0])
        assert f"{ratio:.{len(figure.partition('.')[2])}f}" == figure, row


def test_every_target_and_command_that_the_readme_names_exists() -> None:
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)`?", text)) - {"it"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    help_text = subprocess.run(
        [sys.executable, "-m", "resx", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name in set(re.findall(r"`resx ([a-z]+)", text)):
        assert f" {name} " in help_text, name
    for link in re.findall(r"\]\((docs/[^)]+)\)", text):
        assert (README.parent / link).is_file(), link
