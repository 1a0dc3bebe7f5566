"""A few cases of `make fuzz`, so that a reader that lost its checks is seen before the long run."""

import subprocess
import sys
from pathlib import Path

FOLDER_ALONE = ("names", "configurations", "cards", "checkpoints", "onnx", "images", "archives", "tables")


def test_spoiled_files_give_one_line_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--cases", "4", "--seed", "1", "--keep", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", *FOLDER_ALONE], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{4 * len(FOLDER_ALONE)} cases, 0 faults" in done.stdout
