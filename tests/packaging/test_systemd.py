"""The unit file that is shipped: systemd accepts it, and it says what docs/serving-services.md promises."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy/systemd/resx.service"


def service() -> dict[str, str]:
    # Keys are case-sensitive, and a comment is a line that begins with # or ;.
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=["="])
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]
    return dict(parser["Service"])


def test_the_first_signal_goes_to_the_supervisor_alone_and_it_has_time_to_drain() -> None:
    """With KillMode=control-group tritonserver would get SIGTERM too, before it was drained."""
    unit = service()
    assert unit["KillMode"] == "mixed"
    allowed_s = int(unit["ExecStart"].split("--exit-timeout ")[1])
    assert int(unit["TimeoutStopSec"].removesuffix("s")) > allowed_s + 10


def test_readiness_is_told_and_hopeless_starts_are_not_repeated() -> None:
    unit = service()
    assert (unit["Type"], unit["Restart"], unit["RestartPreventExitStatus"]) == ("notify", "on-failure", "2 4")


def test_it_is_hardened() -> None:
    unit = service()
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectKernelModules"):
        assert unit[key] == "yes"
    assert (unit["User"], unit["ProtectSystem"]) == ("resx", "strict")
    assert unit["CapabilityBoundingSet"] == ""
    assert (unit["IPAddressDeny"], unit["IPAddressAllow"]) == ("any", "localhost")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_with_it(tmp_path: Path) -> None:
    program = service()["ExecStart"].partition(" ")[0]
    copy = tmp_path / "resx.service"
    copy.write_text(UNIT.read_text().replace(program, str(shutil.which("true"))))  # it looks whether it is there
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "resx" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
