"""SamPredictor equals segment-anything's with the same weights, from photograph to masks.

pip install .[test,parity] segment-anything
pytest -m parity -s tests/parity/test_predictor_parity.py
"""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image
from skimage import data

from segjax.inference.sam.predictor import SamPredictor
from segjax.models.sam.build import build_sam, init_sam

pytestmark = pytest.mark.parity
MODEL = build_sam("sam_debug")
# Relative to the reference's largest magnitude. The measured maximum is 1.1e-5, of a predicted IoU
# with a mask prompt.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def predictors():
    """Returns (ours, theirs)."""
    pytest.importorskip("torch")
    from parity.sam_references import SegmentAnything
    from parity.stand_ins import segment_anything

    variables = drawn_variables(MODEL, init_sam)
    try:
        theirs = segment_anything().SamPredictor(SegmentAnything(MODEL, variables).sam)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    return SamPredictor(MODEL, variables), theirs


def load_photograph(name, real_data):
    if name == "astronaut":
        return data.astronaut()[:, :300]
    return np.asarray(Image.open(real_data("sam_demo_images") / f"{name}.jpg").convert("RGB"))


def make_prompts(height, width):
    """Returns arguments of `predict` by kind of prompt. Coordinates are not integers."""
    xy = lambda x, y: [width * x, height * y]
    points, box = (
        np.array([xy(0.31, 0.42), xy(0.77, 0.61)]),
        np.array([*xy(0.13, 0.22), *xy(0.82, 0.93)]),
    )
    return {
        "point": dict(point_coords=points[:1], point_labels=np.array([1])),
        "points": dict(point_coords=points, point_labels=np.array([1, 0]), multimask_output=False),
        "box": dict(box=box, multimask_output=False),
        "points and box": dict(point_coords=points, point_labels=np.array([0, 1]), box=box),
        "nothing": {},
    }


@pytest.mark.parametrize("name", ["astronaut", "dog", "truck"])
def test_masks_equal_those_of_segment_anything(predictors, name, real_data, record_property):
    """Compares photographs up to 1800 x 1200 pixels. Each mask is then used as a prompt."""
    image = load_photograph(name, real_data)
    for predictor in predictors:
        predictor.set_image(image)
    assert predictors[0].input_size == predictors[1].input_size
    for kind, prompt in make_prompts(*image.shape[:2]).items():
        fed = None
        for again in ("", ", fed back"):
            ours, theirs = (
                p.predict(**prompt, mask_input=fed, return_logits=True) for p in predictors
            )
            for stage, a, b in zip(("logits", "iou", "low_res"), ours, theirs, strict=True):
                assert a.shape == b.shape
                error = np.abs(a - b).max() / np.abs(b).max()
                record_property(f"{kind}{again} {stage}", error)
                print(f"{name}, {kind}{again}, {stage}: {error:.1e}")
                assert error < TOLERANCE
            other_side = (ours[0] > 0) != (theirs[0] > 0)
            assert (
                np.abs(theirs[0][other_side]).max(initial=0) < TOLERANCE * np.abs(theirs[0]).max()
            )
            print(
                f"{name}, {kind}{again}: {other_side.sum()} of {other_side.size} pixels on the "
                "other side of 0"
            )
            fed = theirs[2][:1]
