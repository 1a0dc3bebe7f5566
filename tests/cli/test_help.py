"""What `--help` promises: groups of commands, options in panels, all of it at 80 columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.core import TyperOption

from resx.bench.capacity.simulation import BALANCINGS
from resx.bench.load.load_plan import ARRIVALS
from resx.bench.loadgen import SCENARIOS
from resx.card.card import ACCELERATORS
from resx.card.kinds import CALIBRATION_METHODS, CHANNEL_ORDERS, INPUT_TYPES, LAYOUTS, NNCF_METHODS, TARGETS, Precision
from resx.card.runtime import RUNTIMES
from resx.card.tuning import OBJECTIVES
from resx.cli.completion import choices_of
from resx.cli.help_page import examples_of
from resx.cli.main import COMMANDS, app
from resx.cli.options.engine import FORMATS
from resx.cli.options.grouping import OUTPUT_PANEL, RARE_PANEL
from resx.cli.steps.manifests import SYSTEMS
from resx.gpus import WISHES
from resx.scoring.evaluation.images import PARTS
from resx.scoring.in_process import DEVICES
from resx.serving.client.address import PROTOCOLS
from resx.serving.clusters.workload import AUTOSCALERS
from resx.training.config import AUGMENTATIONS, BEST_BY, CLASS_WEIGHTS, SCHEDULES, SKIPPED_BLOCKS
from resx.training.devices import PRECISION_WISHES
from resx.training.recipes import RECIPES
from resx.training.runs.run_listing import ORDERS
from resx.zoo.spec import SURVIVAL_SCHEDULES
from tests.support.command import Resx, WarmResx

NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]


HelpOf = Callable[..., str]


@pytest.fixture
def help_of(warm_resx: WarmResx, tmp_path: Path) -> HelpOf:
    def run(*command: str) -> str:
        done = warm_resx.run(*command, "--help", cwd=tmp_path, env=os.environ | {"COLUMNS": "80"})
        assert (done.code, done.err) == (0, "")
        return done.out

    return run


def titles(text: str) -> list[str]:
    return [line.strip("╭─╮ ") for line in text.splitlines() if line.startswith("╭")]


def options(name: str) -> Iterator[TyperOption]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    yield from (one for one in command.params if isinstance(one, TyperOption))


def test_the_commands_stand_in_six_groups(help_of: HelpOf) -> None:
    text = help_of()

    assert titles(text) == ["Options", "Models", "Research", "Export", "Serving", "Measuring", "Machine"]
    assert all(f"│ {name} " in text for name in NAMES)


def words_of(text: str) -> str:
    """Return a page without its frames and breaks."""
    return "".join(text.replace("│", " ").split())


@pytest.mark.parametrize("name", NAMES)
def test_a_help_reads_well_at_80_columns(name: str, help_of: HelpOf) -> None:
    text = help_of(name)
    shown = {word.rstrip(",") for line in text.splitlines() for word in line.strip("│ ").split(" ")}

    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for option in options(name):
        if not option.hidden:
            assert {*option.opts, *option.secondary_opts} <= shown
            if choices_of(option.metavar):
                assert str(option.metavar) in words_of(text)
    assert "--help" in text[text.index(f"╭─ {OUTPUT_PANEL} ") :]


@pytest.mark.parametrize("name", NAMES)
def test_a_help_has_examples_that_can_be_copied(name: str, help_of: HelpOf) -> None:
    text = help_of(name)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    examples = [one for paragraph in command.help.split("\n\n") for one in examples_of(paragraph)]

    assert examples
    for example in examples:
        assert example.startswith(f"resx {name}")
        assert f"   {example}\n" in text, "an example has a line of its own"


def test_without_a_command_the_help_is_all_that_is_said(resx: Resx, help_of: HelpOf) -> None:
    done = resx()

    assert (done.code, done.err) == (2, "")
    assert titles(done.out) == titles(help_of())


def test_the_first_page_has_three_examples(help_of: HelpOf) -> None:
    assert sum(line.startswith("   resx ") for line in help_of().splitlines()) == 3
    assert max(map(len, help_of().splitlines())) <= 80


CHOICES = {
    "accelerator": ACCELERATORS, "arrivals": ARRIVALS, "autoscaler": AUTOSCALERS, "balancing": BALANCINGS,
    "calibrate_method": CALIBRATION_METHODS + NNCF_METHODS, "file_format": FORMATS, "input_type": INPUT_TYPES,
    "layout": LAYOUTS, "objective": OBJECTIVES, "part": PARTS, "precision": PRECISION_WISHES,
    "augment": AUGMENTATIONS, "channels": CHANNEL_ORDERS, "pixel_max": ("1", "255"),
    "best_by": BEST_BY, "class_weights": CLASS_WEIGHTS,
    "precisions": get_args(Precision), "protocol": PROTOCOLS,
    "recipe": tuple(RECIPES), "runtime": RUNTIMES, "runtimes": RUNTIMES, "scenario": tuple(SCENARIOS),
    "schedule": SCHEDULES, "skipped_blocks": SKIPPED_BLOCKS, "sort": ORDERS, "survival_schedule": SURVIVAL_SCHEDULES,
    "system": SYSTEMS, "target": TARGETS,
}  # fmt: skip
"""By option: the words that are taken."""


@pytest.mark.parametrize("name", NAMES)
def test_an_option_of_few_words_shows_those_that_it_takes(name: str) -> None:
    for option in options(name):
        words = DEVICES if (name, option.name) == ("predict", "device") else WISHES if option.name == "device" else None
        words = words or CHOICES.get(option.name or "")
        assert {*choices_of(option.metavar)} == {*(words or ())}, option.name


def test_a_default_that_is_shown_is_the_one_that_holds(help_of: HelpOf) -> None:
    text = words_of(help_of("bench"))

    assert "Open-looparrivals.[default:poisson]" in text
    assert "[default:model_repository;variable:RESX_REPOSITORY]" in text
    assert "[default:figures]" in words_of(help_of("lesion"))


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_text_and_the_rare_ones_come_last(name: str) -> None:
    panels = list(dict.fromkeys(option.rich_help_panel for option in options(name) if option.rich_help_panel))

    assert [option.name for option in options(name) if not option.help] == []
    assert OUTPUT_PANEL in panels
    if RARE_PANEL in panels:
        assert panels[-1] == RARE_PANEL
        assert panels[-2] == OUTPUT_PANEL


def test_an_option_of_several_commands_has_one_text() -> None:
    texts: dict[str, set[str | None]] = {}
    for name in NAMES:
        for option in options(name):
            texts.setdefault(option.name or "", set()).add(option.help)

    differ = {name for name, found in texts.items() if len(found) > 1}
    # Each of these means something else in another command.
    assert differ == {
        "batch_size", "bf16", "concurrency", "data", "device", "draws", "duration", "epochs", "force", "image_size",
        "images", "max_batch", "name", "output", "pareto", "precisions", "protocol", "rate", "rtol", "runtime",
        "runtimes", "schema", "slo", "threads", "url", "weights",
    }  # fmt: skip
