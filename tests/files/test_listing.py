"""What is found below a folder, what is skipped, and how names are shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resx.errors import UsageError
from resx.files.listing import Listing, count_suffixes, expand, list_files, list_images, read_lines, skipped_words
from resx.names import is_label
from resx.text import one_line, printable, readable


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def below(root: Path, listing: Listing) -> list[str]:
    return sorted(os.path.relpath(path, root) for path in listing.paths)


def test_hidden_files_and_folders_are_skipped_and_counted(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "a/1.jpg",
        "a/._1.jpg",
        "a/.DS_Store",
        "a/.ipynb_checkpoints/1-checkpoint.jpg",
        "__MACOSX/a/._1.jpg",
        ".git/objects/x",
        ".git/objects/y",
        "b/__pycache__/2.jpg",
    )

    listing = list_files(tmp_path)

    assert below(tmp_path, listing) == ["a/1.jpg", "b/__pycache__/2.jpg"]
    assert listing.hidden == 5


def test_a_root_that_is_hidden_or_below_a_hidden_folder_is_listed(tmp_path: Path) -> None:
    root = tree(tmp_path / ".cache" / ".images", "1.jpg", ".2.jpg")

    assert below(root, list_files(root)) == ["1.jpg"]
    assert below(root, expand(f"{root}/*")) == ["1.jpg"]
    assert below(root, expand(f"{root}/**/*.jpg")) == ["1.jpg"]


def test_links_that_form_loops_end_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "a/1.jpg", "b/2.jpg")
    tree(tmp_path / "elsewhere", "3.jpg")
    for number in range(3):  # each followed alone, these would be 3 to the power of 40 paths
        (root / "a" / f"up{number}").symlink_to(root)
    (root / "b" / "self").symlink_to("self")
    (root / "linked").symlink_to(tmp_path / "elsewhere")

    wanted = ["a/1.jpg", "b/2.jpg", "b/self", "linked/3.jpg"]
    assert below(root, list_files(root)) == wanted
    assert below(root, expand(f"{root}/**")) == wanted
    assert below(root, expand(f"{root}/**/*.jpg")) == [name for name in wanted if name.endswith("jpg")]


def test_a_file_is_listed_under_its_own_path_rather_than_under_a_links(tmp_path: Path) -> None:
    tree(tmp_path, "real/1.jpg")
    (tmp_path / "a link").symlink_to(tmp_path / "real")

    assert below(tmp_path, list_files(tmp_path)) == ["real/1.jpg"]


def test_a_link_that_leads_nowhere_is_a_file_and_a_pipe_is_none(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")

    assert below(tmp_path, list_files(tmp_path)) == ["gone.jpg"]
    assert below(tmp_path, expand(f"{tmp_path}/*.jpg")) == ["gone.jpg"]


def test_a_glob_takes_hidden_names_only_where_it_names_them(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/.2.jpg", ".c/3.jpg", "a/.t/4.jpg", "__MACOSX/5.jpg")
    at = str(tmp_path)

    assert below(tmp_path, expand(f"{at}/*/*.jpg")) == ["a/1.jpg"]
    assert expand(f"{at}/a/*.jpg").hidden == 1
    assert below(tmp_path, expand(f"{at}/**/*.jpg")) == ["a/1.jpg"]
    assert below(tmp_path, expand(f"{at}/.c/*.jpg")) == [".c/3.jpg"]
    assert below(tmp_path, expand(f"{at}/**/.t/*.jpg")) == ["a/.t/4.jpg"]
    assert below(tmp_path, expand(f"{at}/a/.*.jpg")) == ["a/.2.jpg"]
    assert below(tmp_path, expand(f"{at}/__MACOSX/*")) == ["__MACOSX/5.jpg"]


def test_a_relative_glob_gives_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "a/1.jpg", "a/b/2.jpg", "3.jpg"))

    assert sorted(expand("**/*.jpg").paths) == ["3.jpg", "a/1.jpg", "a/b/2.jpg"]
    assert sorted(expand("a/**").paths) == ["a/1.jpg", "a/b/2.jpg"]
    assert sorted(expand("./a/*.jpg").paths) == ["./a/1.jpg"]
    assert sorted(expand("[ab]/**/?.jpg").paths) == ["a/1.jpg", "a/b/2.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)

    with pytest.raises(UsageError, match="shut: permission denied"):
        list_files(tmp_path)


def test_only_newlines_part_the_lines_of_a_list() -> None:
    names = ["a\u2028b", "a\vb", "a\fb", "a\x85b", "a\u2029b", "a\x1cb", "a\rb", " both ends ", "\t"]
    content = "\ufeff" + "\n".join(names) + "\r\n\n\r\nlast"

    assert read_lines(content.encode()) == [*names, "last"]
    assert read_lines(b"caf\xe9.jpg\n") == [os.fsdecode(b"caf\xe9.jpg")]
    assert read_lines(b"") == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_list_that_is_not_utf8_is_refused(encoding: str) -> None:
    with pytest.raises(UsageError, match="save it as UTF-8"):
        read_lines("a.jpg\nb.jpg".encode(encoding))


def test_names_are_shown_escaped() -> None:
    assert printable(os.fsdecode(b"x\xff\xe9.png")) == "x\\xff\\xe9.png"
    assert printable("\ud83d alone, \U0001f600 whole, caf\xe9") == "\\ud83d alone, \U0001f600 whole, caf\xe9"
    assert printable("a\nb") == "a\nb"
    assert one_line("a\n\x1b[31mb\x9b\u2028\u202e") == "a\\n\\x1b[31mb\\x9b\\u2028\\u202e"
    assert readable("a\n\tb\r\n\x1b[31m\u200e") == "a\n\tb\\r\n\\x1b[31m\\u200e"


def test_a_label_is_one_line_of_utf8() -> None:
    assert all(map(is_label, ["cat", "Gro\xdfe Katze", "a b", "\u732b", "."]))
    assert not any(map(is_label, ["", "a\nx", "a\tx", "a\rx", "a\x85x", "a\u2028x", "a\x1b[0m", os.fsdecode(b"\xe9")]))
    assert not any(map(is_label, ["a" * 1001, "a\x00", "a\x7f", "\u202eb", "\u200fb", "\ud800"]))
    assert all(map(is_label, ["a" * 1000, "\u0645\u200c\u0645", "\U0001f469\u200d\U0001f52c"]))  # joiners are text
    assert is_label("n01\ttench", with_tabs=True)
    assert not any(is_label(text, with_tabs=True) for text in ("", "a\tb\n", "a\x1b"))


def test_images_are_told_by_their_suffixes_and_others_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.JFIF", "a/2.jpe", "b/3.png", "b/4.heic", "b/5.Heic", "6.json", "README", ".hidden.png")

    listed = list_images(tmp_path)

    assert [path.name for path in listed.paths] == ["1.JFIF", "2.jpe", "3.png"]
    assert listed.others == {".heic": 2, ".json": 1, "": 1}
    assert listed.skipped == (
        "2 non-image files (.json, no suffix), 1 hidden file or folder and 2 .heic files: convert them to JPEG or PNG"
    )


@pytest.mark.parametrize(
    ("others", "hidden", "words"),
    [
        ({}, 0, ""),
        ({}, 1, "1 hidden file or folder"),
        ({".txt": 1}, 0, "1 non-image file (.txt)"),
        ({".svg": 1}, 0, "1 .svg file: convert it to JPEG or PNG"),
        ({".a": 1, ".b": 2, ".c": 3, ".d": 4}, 2, "10 non-image files (.a, .b, .c, ...) and 2 hidden files or folders"),
    ],
)
def test_what_was_skipped_is_said_in_words(others: dict[str, int], hidden: int, words: str) -> None:
    assert skipped_words(others, hidden) == words


def test_a_million_suffixes_are_counted_in_bounded_room() -> None:
    counted = count_suffixes([*(f".{number:06}" for number in range(5000)), ".txt", ".txt", ".\x1b[31m"])

    assert len(counted) == 101
    assert sum(counted.values()) == 5003
    assert next(iter(counted)) == ".txt"
    assert not any("\x1b" in suffix for suffix in counted)
