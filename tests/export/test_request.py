from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import resx
from resx.card.origin import SourceArguments
from resx.card.runtime import RUNTIMES, RuntimeName
from resx.export.combinations import calibration_methods
from resx.export.request import CODE, ExportRequest, form_request, key_of

_LOADED = """
import sys
from resx.export import pipeline, request
from resx.export.int8 import calibration
from resx.export.sources import source
print(*{name.split(".")[1] for name in sys.modules if name.startswith("resx.") and name != "resx.bench"})
"""


# `import resx` brings the empty package resx.bench, which is called as a function; none of its modules.


def test_an_export_is_made_anew_when_any_room_that_makes_it_has_changed() -> None:
    loaded = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True).stdout.split()
    root = Path(resx.__file__).parent
    rooms = {name for name in loaded if (root / name).is_dir()} - {"files"}  # reads and publishes, and decides nothing
    assert rooms == set(CODE)


def test_the_key_holds_runtime_and_precision() -> None:
    source = SourceArguments(source="resnet20", weights="none", seed=0, image_size=None, settings=())
    asked = ExportRequest(source=source, target="cpu")
    changes: list[dict[str, object]] = [{}, {"runtime": "openvino"}, {"runtime": "openvino", "precision": "bf16"}]
    keys = [key_of(asked.model_copy(update=change)) for change in changes]
    assert None not in keys
    assert len(set(keys)) == len(changes)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_of_one_form_of_several_is_calibrated_in_a_way_that_its_runtime_has(runtime: RuntimeName) -> None:
    source = SourceArguments(source="resnet20", weights="none", seed=0, image_size=None, settings=())

    made = form_request(source, runtime, "int8", max_batch_size=8, calibrate="digits")
    other = form_request(source, runtime, "fp32", max_batch_size=8, calibrate="digits")

    assert made.calibrate_method == calibration_methods(runtime)[0]
    assert (made.calibrate, other.calibrate) == ("digits", "")
    assert made.combination.target == "cpu"
