"""`make audit` lists what a database knows; where nothing could be asked it never says that nothing is known."""

import json
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from supply.audit import TRITON_KNOWN, ask_services, lines_of, locked, read_database
from supply.locks import ROOT, Pin

from resx.errors import MissingCapability, UsageError

TODAY = date(2026, 10, 1)


def pin(name: str = "pillow", version: str = "10.2.0") -> Pin:
    return Pin(name=name, version=version, marker="", sha256=("0" * 64,), wanted_by=())


def record(*events: tuple[str, str], name: str = "Pillow", **more: Any) -> dict[str, Any]:
    pairs = [{kind: text} for kind, text in events]
    return {
        "id": "PYSEC-1",
        "aliases": ["CVE-2024-1"],
        "modified": "2026-09-20T00:00:00Z",
        "summary": "A picture\nruns.",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": name},
                "ranges": [{"type": "ECOSYSTEM", "events": pairs}],
            }
        ],
    } | more


def database(folder: Path, *records: object) -> Path:
    for number, one in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(one))
    return folder


OLD = ("introduced", "0"), ("fixed", "10.3.0")


@pytest.mark.parametrize(
    ("events", "known"),
    [
        (OLD, True),
        ((("introduced", "0"), ("fixed", "10.2.0")), False),
        ((("introduced", "10.2.0"),), True),
        ((("introduced", "10.2.1"),), False),
        ((("introduced", "0"), ("last_affected", "10.2.0")), True),
        ((("introduced", "0"), ("last_affected", "10.1.9")), False),
        ((("introduced", "0"), ("fixed", "9.0"), ("introduced", "10.0"), ("fixed", "10.3")), True),
        ((("introduced", "0"), ("fixed", "9.0"), ("introduced", "10.3"), ("fixed", "11")), False),
        # Out of order, as OSV allows, and bounds that are no versions: rather one too many than one too few.
        ((("fixed", "10.3"), ("introduced", "10.0")), True),
        ((("introduced", "0"), ("fixed", "one day")), True),
        ((("introduced", "long ago"), ("fixed", "10.3")), True),
    ],
)
def test_a_record_is_about_the_versions_in_its_ranges(
    tmp_path: Path, events: tuple[tuple[str, str], ...], known: bool
) -> None:
    audit = read_database([pin()], database(tmp_path, record(*events)), TODAY)
    assert bool(audit.findings) is known
    assert not audit.unchecked


def test_a_listed_version_counts_without_a_range_and_names_are_compared_normalized(tmp_path: Path) -> None:
    one = record(name="Ruamel_YAML", id="PYSEC-2")
    commits = [{"type": "GIT", "events": [{"introduced": "0"}]}]
    one["affected"][0] |= {"ranges": commits, "versions": ["1.0", "0.19.1.0"]}
    audit = read_database([pin("ruamel-yaml", "0.19.1"), pin()], database(tmp_path, one), TODAY)
    assert [(found.name, found.ids[0]) for found in audit.findings] == [("ruamel-yaml", "PYSEC-2")]


def test_what_was_withdrawn_or_is_about_others_is_left_out(tmp_path: Path) -> None:
    npm = record(*OLD)
    npm["affected"][0]["package"]["ecosystem"] = "npm"
    audit = read_database([pin()], database(tmp_path, record(*OLD, withdrawn="2026-01-01T00:00:00Z"), npm), TODAY)
    assert audit.findings == ()


def test_yaml_and_a_zip_are_read_too(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "a" / "pillow").mkdir(parents=True)
    (tmp_path / "a" / "pillow" / "PYSEC-1.yaml").write_text(yaml.safe_dump(record(*OLD)))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("PYSEC-1.json", json.dumps(record(*OLD)))
    for path in (tmp_path / "a", tmp_path / "all.zip"):
        assert [found.fixed_in for found in read_database([pin()], path, TODAY).findings] == [("10.3.0",)]


def test_an_old_copy_lists_what_it_knows_and_is_no_proof_of_the_rest(tmp_path: Path) -> None:
    audit = read_database([pin(), pin("numpy", "2.4.6")], database(tmp_path, record(*OLD)), date(2026, 11, 1))
    text = "\n".join(lines_of(audit, 2))
    assert "pillow 10.2.0: PYSEC-1, CVE-2024-1; fixed in 10.3.0: A picture runs." in text
    assert "could not be checked: pillow 10.2.0 and 1 others (no record is newer than 30 days" in text
    assert "no vulnerability" not in text


@pytest.mark.parametrize("content", ["", "[", "null", "[]", '{"affected": []}'])
def test_a_database_that_says_nothing_is_no_answer(tmp_path: Path, content: str) -> None:
    (tmp_path / "0.json").write_text(content)
    with pytest.raises(MissingCapability):
        read_database([pin()], tmp_path, TODAY)


@pytest.mark.parametrize("name", ["nowhere", "a-file"])
def test_what_is_no_database_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("{}")
    with pytest.raises(UsageError, match="no folder and no zip"):
        read_database([pin()], tmp_path / name, TODAY)


def program(tmp_path: Path, answers: dict[str, object]) -> tuple[str, ...]:
    """Return the command of a program that answers as pip-audit does, by the service that it is to ask."""
    text = f"import json, sys\nanswer = {answers!r}[sys.argv[sys.argv.index('--vulnerability-service') + 1]]\n"
    text += "print(json.dumps(answer)) if isinstance(answer, dict) else sys.exit(answer)\n"
    (tmp_path / "program.py").write_text(text)
    return sys.executable, str(tmp_path / "program.py")


SKIPPED = {"dependencies": [{"name": "pillow", "skip_reason": "Dependency not found on PyPI"}]}
CLEAN = {"dependencies": [{"name": "pillow", "version": "10.2.0", "vulns": []}]}
FOUND = {
    "dependencies": [
        {
            "name": "Pillow",
            "version": "10.2.0",
            "vulns": [
                {"id": "PYSEC-1", "aliases": [], "fix_versions": ["10.3"], "description": "x \x1b[31m"},
            ],
        }
    ]
}


@pytest.mark.parametrize(
    ("pypi", "osv", "findings", "unchecked"),
    [
        (CLEAN, "never asked", 0, 0), (FOUND, "never asked", 1, 0), (SKIPPED, CLEAN, 0, 0), (SKIPPED, FOUND, 1, 0),
        ("no network", FOUND, 1, 0), (SKIPPED, "no network", 0, 1), ("no network", "no network", 0, 1),
        (SKIPPED, SKIPPED, 0, 1), ({"dependencies": None}, {"wrong": 1}, 0, 1),
    ],
)  # fmt: skip
def test_osv_is_asked_about_what_pypi_does_not_answer(
    tmp_path: Path, pypi: object, osv: object, findings: int, unchecked: int
) -> None:
    audit = ask_services([pin()], program(tmp_path, {"pypi": pypi, "osv": osv}))
    text = "\n".join(lines_of(audit, 1))
    assert (len(audit.findings), len(audit.unchecked)) == (findings, unchecked)
    assert ("could not be checked: pillow 10.2.0 (" in text) is bool(unchecked)
    assert ("no vulnerability is known" in text) is (not findings and not unchecked)
    assert text.isascii()
    assert "\x1b" not in text


def test_two_locks_may_hold_two_versions_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import json, sys\n"
        "lines = open(sys.argv[-1]).read().split()\n"
        "assert len({line.split('==')[0] for line in lines}) == len(lines)\n"
        "packages = [line.split('==') for line in lines]\n"
        "print(json.dumps({'dependencies': [{'name': n, 'version': v, 'vulns': []} for n, v in packages]}))\n"
    )
    pins = [pin(), pin("grpcio", "1.85.1"), pin("grpcio", "1.85.3")]
    assert ask_services(pins, (sys.executable, str(tmp_path / "program.py"))).unchecked == ()


def audit(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supply.audit", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def fresh(**more: Any) -> dict[str, Any]:
    return record(*OLD, **{"modified": "2999-01-01T00:00:00Z"} | more)


def test_the_exit_code_tells_found_from_unchecked_and_triton_is_always_named(tmp_path: Path) -> None:
    """The locks' Pillow is newer than the fix; that of a record without a fix is not."""
    clean, found = tmp_path / "clean", tmp_path / "found"
    for folder, one in ((clean, fresh()), (found, fresh(affected=record(("introduced", "0"))["affected"]))):
        folder.mkdir()
        database(folder, one)
    for folder, code in ((clean, 0), (found, 3), (tmp_path / "nowhere", 2)):
        done = audit("--database", str(folder))
        assert (done.returncode, done.stderr.count("\n")) == (code, int(code == 2)), done
        assert ("Triton 2.51.0 (in nvidia-pytriton 0.7.0)" in done.stdout) is (code != 2)


def test_tritons_known_vulnerabilities_are_those_of_the_security_page() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    assert all(name.removeprefix("CVE-").partition("-")[2] in text for name in TRITON_KNOWN)


def test_every_lock_is_audited() -> None:
    names = {one.name for one in locked()}
    assert {"torch", "setuptools", "pip-audit", "fastapi", "litserve"} <= names
