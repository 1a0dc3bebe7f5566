"""Signals after OpenVINO: each script would end by SIGSEGV where its plugin is let have its way."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import onnx_files

pytest.importorskip("openvino")
OPENERS = {
    "in process": "{} = OpenVinoModel(PATH)",
    "as served": "{} = open_version(str(PATH), {{}}, 'openvino', 'cpu')",
    "for rows": "{} = _open_openvino(PATH, {{}}, 'm')",
    "profiled": "{} = new_core(), computes_in_bf16()",
}
SCRIPT = """
import gc, signal
from pathlib import Path
from resx.runtimes.openvino_model import OpenVinoModel
from resx.runtimes.openvino_package import computes_in_bf16, new_core
from resx.scoring.in_process import _open_openvino
from resx.serving.embedded.backend_session import open_version
PATH = Path(PATH_OF_FILE)
FIRST
SECOND
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
signal.raise_signal(signal.SIGTERM)
"""


def outcome(opener: str, path: Path) -> tuple[int, str]:
    script = SCRIPT.replace("PATH_OF_FILE", repr(str(path)))
    script = script.replace("FIRST", opener.format("first")).replace("SECOND", opener.format("second"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("opener", OPENERS)
def test_a_signal_is_handled_after_models_that_end_in_the_order_of_their_beginning(tmp_path: Path, opener: str) -> None:
    path = onnx_files.identity(tmp_path / "model.onnx", 1, ["n", 2])
    assert outcome(OPENERS[opener], path) == (0, "handled\n")
