"""Parts that all readers share: file names that stay inside the raw folder, and counts."""

import pathlib

import pytest

from segjax.data.sources.raw import SkipCounts, UnusableError, join_inside

FOLDER = pathlib.Path("/data/raw/images")


@pytest.mark.parametrize(
    "name, joined",
    [
        ("a.jpg", "/data/raw/images/a.jpg"),
        ("sub/a.jpg", "/data/raw/images/sub/a.jpg"),
        ("sub/../a.jpg", "/data/raw/images/a.jpg"),
        ("..a/a.jpg", "/data/raw/images/..a/a.jpg"),
        ("a:3.jpg", "/data/raw/images/a:3.jpg"),
    ],
)
def test_names_inside_the_folder_are_joined(name, joined):
    assert join_inside(FOLDER, name) == pathlib.Path(joined)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/a.jpg",
        "../a.jpg",
        "sub/../../a.jpg",
        "..",
        "..\\a.jpg",
        "C:\\a.jpg",
        "\\\\host\\a.jpg",
        "../images_of_others/a.jpg",
    ],
)
def test_names_outside_the_folder_need_an_option(name):
    with pytest.raises(UnusableError, match="leads outside the raw folder .--option outside=True"):
        join_inside(FOLDER, name)


def test_the_option_allows_names_outside():
    assert join_inside(FOLDER, "/etc/a.jpg", True) == pathlib.Path("/etc/a.jpg")
    assert join_inside(FOLDER, "../../a.jpg", True) == pathlib.Path("/data/a.jpg")


def test_the_root_may_lie_above_the_folder():
    root = FOLDER.parent
    assert join_inside(FOLDER, "../a.jpg", root=root) == root / "a.jpg"
    with pytest.raises(UnusableError, match="outside"):
        join_inside(FOLDER, "../../a.jpg", root=root)


@pytest.mark.parametrize("name", ["", " ", "a\0.jpg", 5, None, ["a.jpg"]])
def test_names_that_are_no_text_raise(name):
    with pytest.raises(UnusableError, match="not the name of a file"):
        join_inside(FOLDER, name, True)


def test_counts_of_threads_add_up():
    ours, theirs = SkipCounts(), SkipCounts()
    for counts in (ours, theirs):
        counts.add_image("broken", "a")
        counts.add_object("empty", "b")
        counts.add_change("box of the mask", "c")
        counts.add_warning("all crowds", "d")
    ours.merge(theirs)
    assert ours.images == {"broken": 2} and ours.objects == {"empty": 2}
    assert ours.changed == {"box of the mask": 2} and ours.suspicious == {"all crowds": 2}
    assert ours.examples["all crowds"] == ["d", "d"]


def test_examples_are_printable_and_short():
    counts = SkipCounts()
    for name in ("\x1b[31mred\n.jpg", "caf\u00e9.jpg", "a\udcff.jpg", "x" * 10**6):
        counts.add_image("broken", name)
        counts.add_image(f"broken {name[:5]!r}", name)
    assert counts.examples["broken"] == [r"\x1b[31mred\n.jpg", "caf\u00e9.jpg", r"a\udcff.jpg"]
    assert max(len(text) for texts in counts.examples.values() for text in texts) == 1000
