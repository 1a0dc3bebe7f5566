"""Every script of examples/ runs in an empty folder and says what it promises; the notebook's cells run in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_EXAMPLES = Path(__file__).parents[2] / "examples"
_SAID = {
    "benchmark": ["concurrency 1: ", "concurrency 4: ", "/s poisson: ", ", 0 failed"],
    "build_and_fold": ["largest difference of a logit: "],
    "evaluate_and_compare": ["digits version 1: ", "digits_int8 version 1: ", " images change class"],
    "serve_and_query": ["serving {'random': [1]} at grpc://127.0.0.1:", "  class-"],
    "train_and_export": ["held-out images right after epoch", "digits version 1, fp16", "checks passed"],
}
_CELLS = """
import json, sys
cells = json.load(open(sys.argv[1]))["cells"]
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), globals())
assert found.num_images > 300, found
assert len(answer) == 3, answer
assert [load.concurrency for load in result.measurements] == [1, 4], result
"""
pytestmark = pytest.mark.triton


def _run(*arguments: str | Path, folder: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in _EXAMPLES.glob("*.py")))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    printed = _run(_EXAMPLES / f"{name}.py", folder=tmp_path)
    for said in _SAID[name]:
        assert said in printed


def test_the_notebooks_cells_run_in_order(tmp_path: Path) -> None:
    _run("-c", _CELLS, _EXAMPLES / "tour.ipynb", folder=tmp_path)


def test_every_example_is_in_the_list() -> None:
    listed = (_EXAMPLES / "README.md").read_text()
    for path in _EXAMPLES.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in listed
