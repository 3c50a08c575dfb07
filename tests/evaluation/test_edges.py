"""The BSDS edge benchmark: closed forms, suppression, and `segjax eval edges`."""

import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from segjax.cli import main
from segjax.evaluation.zero_shot.edge_matching import compute_reach, match_edges
from segjax.evaluation.zero_shot.edge_nms import suppress_edges
from segjax.evaluation.zero_shot.edge_scores import (
    count_matches,
    list_thresholds,
    score_edges,
)

SHAPE = (481, 321)


def line(column, rows=slice(50, 400)):
    edges = np.zeros(SHAPE, bool)
    edges[rows, column] = True
    return edges


def score(edges, boundaries, count=3):
    thresholds = list_thresholds(count)
    return score_edges([count_matches(edges, boundaries, thresholds)], thresholds)


def test_thresholds_and_reach_of_the_benchmark():
    np.testing.assert_allclose(list_thresholds(), np.linspace(0.01, 0.99, 99))
    assert compute_reach(SHAPE) == pytest.approx(4.337, abs=1e-3)


def test_identical_maps_have_one_at_every_threshold():
    truth = line(100) | line(200)
    found = score(truth.astype(float), [truth, truth])
    assert found.ods == found.ois == 1.0
    np.testing.assert_array_equal(found.precision, 1.0)
    np.testing.assert_array_equal(found.recall, 1.0)


@pytest.mark.parametrize("shift, f", [(4, 1.0), (5, 0.0)])
def test_a_shift_within_the_reach_matches(shift, f):
    assert score(line(100 + shift).astype(float), [line(100)]).ods == f


def test_an_empty_prediction_has_zeros():
    found = score(np.zeros(SHAPE), [line(100)])
    for value in (found.ods, found.ois, found.ap, found.r50):
        assert value == 0.0
    assert np.isfinite(found.precision).all() and np.isfinite(found.recall).all()


def test_an_annotator_without_boundaries_adds_nothing():
    found = score(line(100).astype(float), [line(100), np.zeros(SHAPE, bool)])
    assert found.ods == 1.0 and found.recall[0] == 1.0


def test_a_pixel_is_right_if_any_annotator_drew_it():
    edges = (line(100) | line(200)).astype(float)
    counts = count_matches(edges, [line(100), line(200)], list_thresholds(1))
    assert counts.tolist() == [[700, 700, 700, 700]]


def test_matching_is_one_to_one_and_least():
    """Two predictions compete for one pixel, and the nearer one gets it."""
    edges, truth = np.zeros((2, 9, 9), bool)
    edges[4, 2] = edges[4, 5] = truth[4, 4] = True
    ours, theirs = match_edges(edges, truth, reach=2.5)
    assert theirs.sum() == 1 and np.argwhere(ours).tolist() == [[4, 5]]
    # A chain: both find a partner, although one pair is nearest
    truth[4, 7] = True
    ours, theirs = match_edges(edges, truth, reach=2.5)
    assert ours.sum() == theirs.sum() == 2


def test_scores_of_counts_by_hand():
    thresholds = list_thresholds(2)
    # found, annotated, right, predicted
    first = np.array([[80, 100, 80, 160], [40, 100, 40, 40]])
    second = np.array([[90, 100, 90, 90], [10, 100, 10, 10]])
    scores = score_edges([first, second], thresholds)
    np.testing.assert_allclose(scores.recall, [170 / 200, 50 / 200])
    np.testing.assert_allclose(scores.precision, [170 / 250, 1.0])
    f = lambda r, p: 2 * r * p / (r + p)
    share = np.linspace(0, 1, 100)
    r, p = 0.25 * share + 0.85 * (1 - share), share + 0.68 * (1 - share)
    assert scores.ods == pytest.approx(f(r, p).max())
    # Best of each: the first threshold of both (F 0.615 against 0.571, 0.947 against 0.182)
    assert scores.ois == pytest.approx(f(170 / 200, 170 / 250))
    recalls = np.arange(0.25, 0.8501, 0.01)
    line_ = 1 + (recalls - 0.25) / 0.6 * (0.68 - 1)
    assert scores.ap == pytest.approx(line_.sum() / 100)
    assert scores.r50 == pytest.approx(0.85)


def test_suppression_keeps_the_ridge():
    x = np.arange(60)
    edges = np.tile(np.exp(-((x - 30) ** 2) / 8), (50, 1))
    kept = suppress_edges(edges)
    columns = np.flatnonzero(kept[25])
    assert columns.tolist() == [30]
    assert kept[25, 30] == pytest.approx(0.941248, abs=1e-6)
    np.testing.assert_allclose(kept[:6, 30] / kept[25, 30], [0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_bad_maps_are_told():
    for edges, boundaries, message in (
        (np.zeros((4, 4)), [], "no annotator"),
        (np.zeros((4, 4)), [np.zeros((4, 5), bool)], "expected one size"),
        (np.full((4, 4), 2.0), [np.zeros((4, 4), bool)], "outside of 0..1"),
        (np.full((4, 4), np.nan), [np.zeros((4, 4), bool)], "outside of 0..1"),
    ):
        with pytest.raises(ValueError, match=message):
            count_matches(edges, boundaries, list_thresholds(1))


def write_truth(path, *boundaries):
    cells = np.empty((1, len(boundaries)), object)
    for i, boundary in enumerate(boundaries):
        cells[0, i] = {
            "Segmentation": np.ones(boundary.shape, np.uint16),
            "Boundaries": boundary.astype(np.uint8),
        }
    scipy.io.savemat(path, {"groundTruth": cells})


@pytest.fixture
def folders(tmp_path):
    edges, truth = tmp_path / "edges", tmp_path / "truth"
    edges.mkdir(), truth.mkdir()
    small = line(100)[:120, 60:160]
    for name in ("a", "b"):
        Image.fromarray(small.astype(np.uint8) * 255).save(edges / f"{name}.png")
        write_truth(truth / f"{name}.mat", small, small)
    return edges, truth, tmp_path / "out"


def run(edges, truth, out, *more):
    arguments = ["--edges", edges, "--truth", truth, "--out", out, "--thresholds", 5, *more]
    return main(["eval", "edges", *map(str, arguments)])


def test_command_writes_scores_and_goes_on(folders, capsys):
    edges, truth, out = folders
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(edges / "extra.png")
    assert run(*folders, "--processes", 1) == 0
    found = json.loads((out / "edges.json").read_text())
    assert found["ODS"] == found["OIS"] == 1.0
    assert found["images"] == 2 and found["thresholds"] == 5
    assert Image.open(out / "edges.png").size[0] > 100
    assert "extra" in capsys.readouterr().out
    counts = sorted((out / "counts").glob("*.npy"))
    assert len(counts) == 2
    # Counts that are there are not counted again, damaged ones are
    before = counts[0].stat().st_mtime_ns
    counts[1].write_bytes(b"")
    assert run(*folders, "--processes", 1) == 0
    assert counts[0].stat().st_mtime_ns == before and counts[1].stat().st_size
    assert json.loads((out / "edges.json").read_text())["ODS"] == 1.0


def test_command_tells_mistakes(folders, tmp_path, capsys):
    edges, truth, out = folders
    (edges / "b.png").unlink()
    assert run(*folders) == 2
    assert "lacks 1 of 2 edge maps, such as b.png" in capsys.readouterr().err
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(edges / "b.png")
    assert run(*folders, "--processes", 1) == 2
    assert "expected one size" in capsys.readouterr().err
    colors = np.zeros((9, 9, 3), np.uint8)
    colors[4, 4, 0] = 255
    Image.fromarray(colors).save(edges / "b.png")
    assert run(*folders, "--processes", 1) == 2
    assert "Pillow mode RGB" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", truth, out) == 2
    assert run(edges, truth, out, "--thresholds", 0) == 2
