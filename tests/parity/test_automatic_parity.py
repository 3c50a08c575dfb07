"""Segment everything beside segment-anything's own generator, with the same weights.

torchvision, which it imports for four small functions, cannot be beside transformers here; they are written out below.
"""

import sys
import types

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


def torchvision_of(torch):
    """The parts of torchvision that the generator uses."""

    def batched_nms(boxes, scores, groups, iou_threshold):
        order, kept = list(scores.sort(stable=True, descending=True)[1].tolist()), []
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        while order:
            best = order.pop(0)
            kept.append(best)
            low, high = torch.maximum(boxes[best, :2], boxes[:, :2]), torch.minimum(boxes[best, 2:], boxes[:, 2:])
            shared = (high - low).clamp(min=0).prod(1)
            drops = (shared / (area[best] + area - shared) > iou_threshold) & (groups == groups[best])
            order = [other for other in order if not drops[other]]
        return torch.tensor(kept, dtype=torch.long)

    def module(name, **members):
        made = types.ModuleType(name)
        made.__dict__.update(members)
        return made

    boxes = module(
        "torchvision.ops.boxes",
        batched_nms=batched_nms,
        box_area=lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]),
    )
    functional = module(
        "torchvision.transforms.functional",
        to_pil_image=Image.fromarray,
        resize=lambda picture, size: picture.resize(tuple(size)[::-1], Image.BILINEAR),
    )
    names = ("torchvision", "torchvision.ops", "torchvision.transforms")
    return {name: module(name) for name in names} | {m.__name__: m for m in (boxes, functional)}


@pytest.fixture(scope="module")
def reference():
    """(our variables, segment-anything's generator class, its model of the same weights)."""
    torch = pytest.importorskip("torch")
    from parity.sam_references import SegmentAnything

    variables = drawn_variables(MODEL, init_sam)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in torchvision_of(torch).items():
            patch.setitem(sys.modules, name, module)
        for name in [name for name in sys.modules if name.split(".")[0] == "segment_anything"]:
            patch.delitem(sys.modules, name)
        theirs = pytest.importorskip("segment_anything").SamAutomaticMaskGenerator
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
