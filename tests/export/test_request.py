from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import resx
from resx.export.request import CODE

_LOADED = """
import sys
from resx.export import pipeline, request
from resx.export.int8 import calibration
from resx.export.sources import source
print(*{name.split(".")[1] for name in sys.modules if name.startswith("resx.")})
"""


def test_an_export_is_made_anew_when_any_room_that_makes_it_has_changed() -> None:
    loaded = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True).stdout.split()
    root = Path(resx.__file__).parent
    rooms = {name for name in loaded if (root / name).is_dir()} - {"files"}  # reads and publishes, and decides nothing
    assert rooms == set(CODE)
