"""Keeps the language of the code plain: prose counts of docstrings, lengths of lines, folders and
pages.

The ranges are those that gemma, kauldron, big_vision, segment-anything and optax keep (semicolons
and "what" per 10,000 words of docstrings), with a margin. A failing test prints the first
offenders.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "segjax").rglob("*.py"))
CODE = [
    path
    for name in ("segjax", "experiments", "tools")
    for path in sorted((ROOT / name).rglob("*.py"))
]
QUESTION_WORDS = {"What", "Which", "Whether", "Of", "How", "Where", "As"}
MAX_FILES_PER_FOLDER = 16
MAX_LINE = 100
# Names that two modules may share: segment-anything's interface keeps segment-anything's names.
DROP_IN = ROOT / "segjax" / "compat"


def docstrings(paths):
    """Yields (path, node, docstring) of every module, class and function that has one."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield path, node, text


def where(path, node=None):
    line = getattr(node, "lineno", 1)
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize(
    ("pattern", "most"),
    [(r";", 20), (r"\bwhat\b", 8), (r"\bpictures?\b", 15)],
    ids=["semicolons", "what", "picture"],
)
def test_docstrings_use_few(pattern, most):
    """Counts per 10,000 words of the package's docstrings."""
    words, hits = 0, []
    for path, node, text in docstrings(PACKAGE):
        words += len(re.findall(r"[A-Za-z']+", text))
        hits += [where(path, node)] * len(re.findall(pattern, text, re.IGNORECASE))
    rate = 10_000 * len(hits) / words
    assert rate <= most, f"{rate:.1f} of {pattern} per 10,000 words, such as in {hits[:5]}"


def test_function_docstrings_begin_with_a_verb():
    """A third-person verb ("Returns") or, for small mathematical functions, a noun phrase;
    never a question word.
    """
    functions = [
        (where(path, node), text.split()[0])
        for path, node, text in docstrings(PACKAGE)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    wrong = [f"{place}: {word}" for place, word in functions if word.strip(".,:") in QUESTION_WORDS]
    assert len(wrong) <= 0.015 * len(functions), wrong[:20]


def test_lines_are_short():
    lines = [
        (where(path, None) + f" line {number}", len(line))
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]
    long = [place for place, length in lines if length > MAX_LINE]
    assert len(long) <= 0.02 * len(lines), f"{len(long)} of {len(lines)}, such as {long[:10]}"


def test_long_bodies_have_signposts():
    """Comments on lines of their own: at least 2 per 100 lines of the package."""
    lines = [line.strip() for path in PACKAGE for line in path.read_text().splitlines()]
    comments = sum(line.startswith("#") for line in lines)
    assert comments >= 0.02 * len(lines), f"{comments} comments in {len(lines)} lines"


def test_folders_are_small():
    folders = {path.parent for path in CODE}
    for folder in sorted(folders):
        files = [path for path in folder.iterdir() if path.suffix == ".py"]
        assert len(files) <= MAX_FILES_PER_FOLDER, f"{folder.relative_to(ROOT)}: {len(files)} files"


def test_public_class_names_are_unique():
    homes = {}
    for path in PACKAGE:
        if DROP_IN in path.parents:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(where(path, node))
    shared = {name: places for name, places in homes.items() if len(places) > 1}
    assert not shared


def glossary():
    """Rows (term, file) of the table in docs/glossary.md."""
    rows = re.findall(
        r"^\| ([^|]+?) \| [^|]+ \| ([^|]+?) \|$", (ROOT / "docs/glossary.md").read_text(), re.M
    )
    return [
        (term, re.search(r"[\w./]+", file.strip("`"))[0])
        for term, file in rows
        if term not in ("term", "Term")
    ]


def test_glossary_terms_are_where_the_glossary_says():
    rows = [(term, file) for term, file in glossary() if not set(term) <= {"-", ":"}]
    assert len(rows) >= 35
    missing = [
        f"{term}: {file}"
        for term, file in rows
        if term.lower() not in " ".join((ROOT / file).read_text().lower().split())
    ]
    assert not missing


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 100
    head = " ".join(lines[:15])
    assert all(model in head for model in ("SAM", "MAE", "Mask R-CNN"))


def test_changelog_entries_are_short():
    text = (ROOT / "CHANGELOG.md").read_text()
    entries = [" ".join(entry.split()) for entry in re.split(r"^- ", text, flags=re.M)[1:]]
    long = [entry[:60] for entry in entries if len(entry.split("\n\n")[0].split()) > 25]
    assert entries and not long


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_pages_link_to_files_that_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
