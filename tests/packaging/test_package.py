"""What is shipped: built here, sdist first and the wheel from it, and compared with the source."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from resx._version import __version__

ROOT = Path(__file__).parents[2]
LINKS = ("cli", "export", "serving")
AT_THE_TOP = {
    ".git",
    ".venv",
    ".tools",
    ".peers",
    ".hypothesis",
    "build",
    "dist",
    "runs",
    "results",
    "model_repository",
}
ANYWHERE = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info", ".staging-*", ".model_repository.staging")


def not_source(folder: str, names: list[str]) -> set[str]:
    """Return what a checkout has beside its sources: `results` at the top is no room of that name."""
    return ANYWHERE(folder, names) | (AT_THE_TOP.intersection(names) if Path(folder) == ROOT else set())


def source_files() -> set[str]:
    files = (path for path in (ROOT / "src" / "resx").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT / "src").as_posix() for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel of a copy of this tree that also holds an exported model."""
    tree, output = tmp_path_factory.mktemp("tree") / "resx", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=not_source)
    model = tree / "model_repository" / "tiny" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"a model")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(built: Path) -> dict[str, bytes]:
    (path,) = built.glob("*.tar.gz")
    files = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if (file := archive.extractfile(member)) is not None:
                files[member.name.partition("/")[2]] = file.read()
    return files


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes]) -> None:
    assert {name for name in wheel if not name.startswith(f"resx-{__version__}.dist-info/")} == source_files()


def test_what_is_no_python_package_is_shipped_too(wheel: dict[str, bytes]) -> None:
    backends = {
        f"resx/serving/embedded/backends/{file}"
        for file in ("onnxruntime/model.py", "tensorrt/model.py", "request_batches.py")
    }
    assert {"resx/py.typed", *backends} <= wheel.keys()
    templates = {name for name in source_files() if name.startswith("resx/serving/clusters/templates/")}
    assert len(templates) > 10
    assert templates <= wheel.keys()


def test_the_wheel_has_the_bytes_of_the_source(wheel: dict[str, bytes]) -> None:
    assert all(wheel[name] == (ROOT / "src" / name).read_bytes() for name in source_files())


def test_the_sdist_has_the_sources_once_and_no_model(sdist: dict[str, bytes]) -> None:
    assert {f"src/{name}" for name in source_files()} <= sdist.keys()
    assert not {name.partition("/")[0] for name in sdist} & {*LINKS, "model_repository", ".venv"}


def test_the_license_is_in_both(wheel: dict[str, bytes], sdist: dict[str, bytes]) -> None:
    license_text = (ROOT / "LICENSE").read_bytes()
    assert sdist["LICENSE"] == license_text
    assert wheel[f"resx-{__version__}.dist-info/licenses/LICENSE"] == license_text


def test_the_version_is_written_in_one_place(wheel: dict[str, bytes]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    assert email.message_from_bytes(wheel[f"resx-{__version__}.dist-info/METADATA"])["Version"] == __version__
    assigned = re.compile(r"^(__version__|VERSION)\b.*=\s*[\"']", re.MULTILINE)
    assert [name for name in source_files() if assigned.search((ROOT / "src" / name).read_text())] == [
        "resx/_version.py"
    ]


@pytest.mark.parametrize("name", LINKS)
def test_the_top_levels_rooms_are_links_into_the_package(name: str) -> None:
    assert (ROOT / name).readlink() == Path("src/resx") / name
    assert (ROOT / name).is_dir()


def hooks() -> list[dict[str, object]]:
    (repo,) = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    return repo["hooks"]


def test_pre_commit_runs_what_make_check_runs() -> None:
    # --assume-old: what make would do in an environment that is set up.
    command = ["make", "--dry-run", "--no-print-directory", "--assume-old=.venv/.installed", "check"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [hook["entry"] for hook in hooks()] == made.stdout.splitlines()


def test_pre_commit_checks_the_whole_tree_whatever_was_changed() -> None:
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in hooks())


def test_pre_commit_accepts_its_configuration() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
