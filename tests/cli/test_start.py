"""What is promised about the first second of a command."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "tritonclient", "onnx", "onnxruntime", "matplotlib", "sklearn", "tensorrt")


@pytest.mark.parametrize("arguments", [["--help"], ["query", "--help"], ["export", "--help"], ["--version"]])
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


def test_the_client_commands_need_no_torch() -> None:
    """Bare `resx` is the client: query, bench and deploy must import without the model packages."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'sklearn', 'safetensors'): sys.modules[name] = None\n"
        "import resx.serving.deploy, resx.serving.images, resx.serving.supervisor\n"
        "import resx.bench.report, resx.serving.checks\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
