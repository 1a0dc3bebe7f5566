"""A script may measure without `if __name__ == "__main__":`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
from resx.bench.null_server import null_server

print("script")
with null_server("http", b"{}") as port:
    print("listens" if port else "")
"""


def test_a_spawned_process_does_not_run_the_script_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["script", "listens"]
