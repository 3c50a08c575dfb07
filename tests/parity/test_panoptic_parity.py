"""Compares panoptic quality with panopticapi on random images.

SEGJAX_PANOPTICAPI=FOLDER pytest -m parity tests/parity/test_panoptic_parity.py

FOLDER is a clone of github.com/cocodataset/panopticapi.
"""

import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from segjax.evaluation.panoptic import PanopticScores, encode_ids

pytestmark = pytest.mark.parity
CASES = 200
CATEGORIES = {
    number: {"id": number, "name": f"class {number}", "isthing": int(number < 4)}
    for number in range(1, 7)
}


@pytest.fixture(scope="module")
def panopticapi():
    folder = os.environ.get("SEGJAX_PANOPTICAPI")
    if not folder or not pathlib.Path(folder, "panopticapi", "evaluation.py").is_file():
        pytest.skip("SEGJAX_PANOPTICAPI does not name a clone of panopticapi")
    sys.path.insert(0, folder)
    from panopticapi import evaluation

    yield evaluation
    sys.path.remove(folder)


def draw_map(rng, first, like=None):
    """A map of random rectangles, perhaps a disturbed copy of another, and its segments."""
    ids = np.zeros((40, 48), np.int64)
    if like is not None:
        ids = like + first * (like > 0)
    for number in range(rng.integers(0 if like is not None else 2, 9)):
        y, x = rng.integers(0, 36), rng.integers(0, 44)
        height, width = rng.integers(4, 24, 2)
        # Some rectangles are void
        ids[y : y + height, x : x + width] = rng.choice([0, first + 500 + number], p=[0.2, 0.8])
    return ids


def describe(rng, ids, like=None, crowds=False):
    """Segments with categories, mostly those of the segment that a disturbed copy comes from."""
    rows, crowded = [], set()
    for number in np.unique(ids[ids > 0]).tolist():
        own = int(rng.integers(1, 7))
        if like and rng.random() < 0.8:
            own = like.get(number - 1000, own)
        # COCO has at most one crowd of a category in an image
        crowd = crowds and own < 4 and own not in crowded and rng.random() < 0.15
        crowded |= {own} if crowd else set()
        area = int((ids == number).sum())
        rows.append({"id": number, "category_id": own, "iscrowd": int(crowd), "area": area})
    return rows


def test_pq_of_random_images(panopticapi, tmp_path):
    rng, ours, matched = np.random.default_rng(0), PanopticScores(CATEGORIES), []
    for folder in ("truth", "predictions"):
        (tmp_path / folder).mkdir()
    for case in range(CASES):
        truth = draw_map(rng, 1)
        given = describe(rng, truth, crowds=True)
        prediction = draw_map(rng, 1000, like=truth)
        categories = {row["id"]: row["category_id"] for row in given}
        own = describe(rng, prediction, like=categories)
        ours.add(prediction, own, truth, given)
        pair = []
        for folder, ids, rows in (("truth", truth, given), ("predictions", prediction, own)):
            name = f"{case}.png"
            Image.fromarray(encode_ids(ids)).save(tmp_path / folder / name)
            pair.append({"image_id": case, "file_name": name, "segments_info": rows})
        matched.append(tuple(pair))
    stat = panopticapi.pq_compute_single_core(
        0, matched, str(tmp_path / "truth"), str(tmp_path / "predictions"), CATEGORIES
    )
    found = ours.summarize()
    for group, isthing in (("All", None), ("Things", True), ("Stuff", False)):
        wanted, _ = stat.pq_average(CATEGORIES, isthing=isthing)
        assert found[group]["n"] == wanted["n"] > 0
        for ours_key, key in (("PQ", "pq"), ("SQ", "sq"), ("RQ", "rq")):
            assert found[group][ours_key] == pytest.approx(wanted[key], abs=1e-12)
    for number in CATEGORIES:
        theirs = stat[number]
        assert (ours.tp[number], ours.fp[number], ours.fn[number]) == (
            theirs.tp,
            theirs.fp,
            theirs.fn,
        )
    assert 0.2 < found["All"]["PQ"] < 0.9 and all(ours.fp.values()) and all(ours.fn.values())
    print(found["All"])
