"""What is promised about the first second of a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "tritonclient",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "sklearn",
    "tensorrt",
    "pyarrow",
    "fsspec",
    "ray",
)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["query", "--help"], ["export", "--help"], ["predict", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['resx', *sys.argv[1:]]\n"
        "from resx.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: [] 0"


def test_importing_resx_imports_no_torch() -> None:
    code = "import sys, resx; print(resx.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"


def test_ctrl_c_while_a_dataclass_is_made_ends_with_the_code_of_an_interrupt(tmp_path: Path) -> None:
    """Python marks an interrupt inside `exec` of a string as uncaught for good; `-m` then dies of SIGINT."""
    (tmp_path / "interrupted.py").write_text(
        "from resx.cli import main\nmain.app = lambda standalone_mode: exec('raise KeyboardInterrupt')\nmain.main()\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_whatever_a_command_starts_takes_no_modules_from_the_working_folder(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from resx.cli import main\n"
        "main.app = lambda standalone_mode: print(os.environ['PYTHONSAFEPATH'])\n"
        "main.main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
