"""Segment everything beside segment-anything's own generator, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image
from skimage import data

from segjax.inference.automatic import SamAutomaticMaskGenerator
from segjax.models.sam.build import build_sam, init_sam

pytestmark = pytest.mark.parity
MODEL = build_sam("sam_debug")
PICTURES = {"astronaut": (90, 70), "coffee": (64, 100)}


@pytest.fixture(scope="module")
def reference():
    """(our variables, segment-anything's generator class, its model of the same weights)."""
    pytest.importorskip("torch")
    from parity.sam_references import SegmentAnything, official_package

    variables = drawn_variables(MODEL, init_sam)
    with official_package() as package:
        theirs = package.SamAutomaticMaskGenerator
        yield jax.tree.map(jnp.asarray, variables), theirs, SegmentAnything(MODEL, variables).sam


def in_a_gap(values):
    """A threshold far from every value, which some of them pass: rounding decides nothing."""
    values = np.sort(values)[len(values) // 5 : len(values) // 2]
    widest = np.argmax(np.diff(values))
    return float(values[widest : widest + 2].mean())


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("crops", [0, 1])
@pytest.mark.parametrize("overlap", [0.7, 1.0])
def test_the_same_records(reference, name, crops, overlap):
    """Masks of drawn weights cover the picture: suppression leaves few; without it (1.0) all are compared."""
    variables, theirs, model = reference
    picture = np.asarray(Image.fromarray(getattr(data, name)()).resize(PICTURES[name]))
    options = dict(points_per_side=5, points_per_batch=7, crop_n_layers=crops, stability_score_offset=0.02)
    options |= dict(box_nms_thresh=overlap, crop_nms_thresh=overlap)
    probe = SamAutomaticMaskGenerator(MODEL, variables, pred_iou_thresh=-9, stability_score_thresh=0, **options)
    found = probe.propose(picture)
    options |= dict(pred_iou_thresh=in_a_gap(found.predicted_iou), stability_score_thresh=in_a_gap(found.stability))
    ours = SamAutomaticMaskGenerator(MODEL, variables, **options).generate(picture)
    expected = theirs(model, **options).generate(picture)
    assert len(ours) == len(expected) > (20 if overlap == 1 else 0)
    for a, b in zip(ours, expected, strict=True):
        assert (a["segmentation"] != b["segmentation"]).mean() < 1e-3  # a logit of nearly 0 may fall on either side
        assert abs(a["area"] - b["area"]) <= 5
        assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-5)
        assert a["stability_score"] == pytest.approx(b["stability_score"], abs=5e-3)
        np.testing.assert_allclose(a["point_coords"], b["point_coords"], rtol=1e-6)
        assert a["crop_box"] == b["crop_box"]
        x, y, width, height = b["bbox"]  # one pixel short, as known
        np.testing.assert_allclose(a["bbox"], [x, y, width + 1, height + 1], atol=1)
