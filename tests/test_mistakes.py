"""Mistakes that people make: each command of the troubleshooting page gives the page's message."""

import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from written_run import write_run

from segjax.cli import main

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "guides" / "troubleshooting.md"
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `segjax")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder that the page describes."""
    path = tmp_path_factory.mktemp("mistakes")
    noise = np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8)
    Image.fromarray(noise).save(path / "photo.png")
    (path / "notes.txt").write_text("these are notes")
    (path / "empty").mkdir()
    write_run(path / "runs" / "sam")
    return path


def test_the_page_has_30_mistakes_with_a_remedy_each():
    assert len(ROWS) >= 30 and all(len(row) == 3 and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][8:80])
def test_a_mistake_gets_one_sentence_that_leads_on(row, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    command, expected, _ = row
    assert main(shlex.split(command.strip("`"))[1:]) == 2
    # The first lines of a run go before the error
    error = capsys.readouterr().err.strip().splitlines()
    (message,) = [line for line in error if line.startswith("segjax ")]
    assert error[-1] == "(--debug shows where)" and len(message) < 700
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("..."))
    assert re.search(pattern, message), message
    assert not (folder / "out").exists()
