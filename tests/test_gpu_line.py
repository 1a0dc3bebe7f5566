"""`make gpu` on a machine without a GPU: what needs one says so, and the rest is the real line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gpu_line import Line
from benchmarks.gpu_report import Step, write_report
from benchmarks.gpu_settings import SETTINGS, copy

from resx.gpus import find_gpus
from resx.repository import config_pbtxt
from resx.serving.embedded.devices import missing_for_cuda


def run(folder: Path, budget_s: float) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-m", "benchmarks.gpu", f"--budget={budget_s}", "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {step["name"]: step for step in json.loads((folder / "gpu.json").read_text())["steps"]}


@pytest.mark.triton
def test_without_a_gpu_the_rest_of_the_line_passes(tmp_path: Path) -> None:
    if not (find_gpus().missing or missing_for_cuda()):
        pytest.skip("there is a GPU: `make gpu` is the test")
    steps = run(tmp_path, 600)

    # Whether a load is valid depends on how busy the machine is; that it ran does not.
    passed = {name for name, step in steps.items() if step["outcome"] in {"passed", "invalid"}}
    assert all(steps[name]["outcome"] == "passed" for name in passed if not name.startswith("bench"))
    assert passed == {
        "export resnet20_fp32",
        "serve",
        "verify resnet20_fp32 as served",
        "bench resnet20_fp32, closed",
        "bench resnet20_fp32, open",
        "stop",
    }
    others = {name: step for name, step in steps.items() if name not in passed}
    assert {step["outcome"] for step in others.values()} == {"not run"}
    assert all(step["why"].startswith("no GPU: ") for step in others.values())
    assert "train resnet110, stochastic depth" in others


def test_it_begins_nothing_that_the_budget_has_no_time_for(tmp_path: Path) -> None:
    steps = run(tmp_path, 0)
    assert {step["outcome"] for step in steps.values()} == {"not run"}
    assert steps["export resnet20_fp32"]["why"] == "no time was left of the budget"


@pytest.mark.parametrize(
    ("code", "outcome", "why"),
    [
        ("raise SystemExit('error: libx is missing')", "failed", "exit code 1: error: libx is missing"),
        ("import sys; sys.stderr.write('no GPU here'); sys.exit(4)", "not run", "exit code 4: no GPU here"),
        ("print('[]')", "failed", "its output has no list indices"),
        ("import time; time.sleep(60)", "failed", "not over when the budget was"),
    ],
)
def test_a_step_that_fails_says_why(tmp_path: Path, code: str, outcome: str, why: str) -> None:
    line = Line(tmp_path, 7.0 if "sleep" in code else 600.0, [], "")
    step = line.run("a step", [sys.executable, "-c", code], gpu=True, read=lambda text: json.loads(text)["a"])
    assert (step.outcome, step.why.startswith(why)) == (outcome, True), step


def test_the_page_shows_what_a_step_said_and_nothing_of_it_is_markup(tmp_path: Path) -> None:
    step = Step(name="<b>", outcome="failed", why="<script>alert(1)</script>", command="a & b")
    write_report(tmp_path, {"gpu": "<none>"}, [step])
    page = (tmp_path / "gpu.html").read_text()
    assert "&lt;script&gt;" in page
    assert not {"<script>", "<none>", "<b>"} & set(page.split())
    assert "0 passed, 1 failed, 0 invalid, 0 not run" in page


@pytest.mark.parametrize("why", ["INVALID at 20/s, open: the client was late", "128 of 859 requests failed: busy"])
def test_figures_that_may_not_be_used_are_no_failure_and_are_not_passed_off_as_good(tmp_path: Path, why: str) -> None:
    code = f"import sys; print('{{\"a\": 1}}'); sys.exit('error: {why}')"
    line = Line(tmp_path, 600.0, [], "")
    step = line.run("a load", [sys.executable, "-c", code, "bench"], gpu=True, read=json.loads)
    assert (step.outcome, step.why, step.figures) == ("invalid", why, {"a": 1})
    assert f"{why}<br>a: 1" in (tmp_path / "gpu.html").read_text()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_what_config_pbtxt_of_its_copy_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "published/tiny").mkdir(parents=True)
    (tmp_path / "published/tiny/config.pbtxt").write_text('backend: "onnxruntime"\ninstance_group { count: 4 }\n')
    copy(tmp_path / "published", tmp_path / "copy", "tiny", SETTINGS[name])
    config = config_pbtxt.read(tmp_path / "copy/tiny/config.pbtxt")
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [group.count for group in config.instance_group] == [SETTINGS[name].instances]
    assert {key for one in accelerators for key in one.parameters} == set(SETTINGS[name].cuda)
