"""Automatic mask generation equals segment-anything's generator with the same weights.

pip install .[test,parity] segment-anything
pytest -m parity -s tests/parity/test_automatic_parity.py
"""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from blobs import blobs
from golden.drawn_weights import drawn_variables
from PIL import Image
from skimage import data

from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts

pytestmark = pytest.mark.parity
MODEL, BLOBS = build_sam("sam_debug"), blobs("sam_debug")
# Rounding difference of the two models, relative to the largest logit. A pixel this close to 0 may
# lie on either side.
TIE = 1e-5
VARIABLES = drawn_variables(MODEL, init_sam)


@pytest.fixture(scope="module")
def theirs():
    """Returns their generator class, their model with our weights, and one like `Blobs`."""
    torch = pytest.importorskip("torch")
    from parity.sam_references import SegmentAnything
    from parity.stand_ins import segment_anything

    try:
        generator = segment_anything().SamAutomaticMaskGenerator
    except ModuleNotFoundError as error:
        pytest.skip(str(error))

    class Clicks(torch.nn.Module):
        def forward(self, points, boxes, masks):
            return points[0], None

        def get_dense_pe(self):
            return None

    class Discs(torch.nn.Module):
        def forward(self, *, image_embeddings, sparse_prompt_embeddings, **_):
            embedding = jnp.asarray(image_embeddings.permute(0, 2, 3, 1).numpy())
            logits, iou = BLOBS.decode(
                embedding, Prompts(points=jnp.asarray(sparse_prompt_embeddings.numpy())[None])
            )
            return torch.from_numpy(np.array(logits[0, :, 1:])), torch.from_numpy(
                np.array(iou[0, :, 1:])
            )

    model, discs = (SegmentAnything(MODEL, VARIABLES).sam for _ in range(2))
    discs.prompt_encoder, discs.mask_decoder = Clicks(), Discs()
    return generator, model, discs


def load_image(name, real_data):
    """Loads an image of skimage, or a demonstration photograph of SAM of 200 pixels."""
    sizes = {"astronaut": (90, 70), "coffee": (64, 100)}
    if name in sizes:
        return np.asarray(Image.fromarray(getattr(data, name)()).resize(sizes[name]))
    photograph = Image.open(real_data("sam_demo_images") / f"{name}.jpg").convert("RGB")
    photograph.thumbnail((200, 200))
    return np.asarray(photograph)


def choose_threshold(values):
    """Returns a threshold that some values pass, far from every value."""
    values = np.sort(values)[len(values) // 5 : len(values) // 2]
    widest = np.argmax(np.diff(values))
    return float(values[widest : widest + 2].mean())


def make_records(model, generator, reference, image, options):
    """Returns (ours, theirs), with thresholds that drop some of the masks."""
    probe = SamAutomaticMaskGenerator(
        model, VARIABLES, pred_iou_thresh=-9, stability_score_thresh=0, **options
    )
    candidates = probe.propose(image)
    limits = dict(
        pred_iou_thresh=choose_threshold(candidates.predicted_iou),
        stability_score_thresh=choose_threshold(candidates.stability),
    )
    ours = SamAutomaticMaskGenerator(model, VARIABLES, **options | limits).generate(image)
    return ours, generator(reference, **options | limits).generate(image)


def assert_same_records(ours, expected, logits_of, record_property):
    """Checks that records are equal in pairs. Masks may differ where a logit is nearly 0."""
    assert len(ours) == len(expected)
    np.testing.assert_allclose(
        *([r["predicted_iou"] for r in of] for of in (ours, expected)), atol=1e-5
    )
    # The order differs for ties, so records are paired by their click.
    source = lambda r: (r["crop_box"], np.round(r["point_coords"], 1).tolist(), r["predicted_iou"])
    exact, tied = 0, []
    for a, b in zip(sorted(ours, key=source), sorted(expected, key=source), strict=True):
        differs = a["segmentation"] != b["segmentation"]
        if differs.any():
            logits = np.abs(logits_of(b))
            assert logits[differs].max() < TIE * logits.max()
            tied.append(int(differs.sum()))
        exact += not differs.any()
        assert a["area"] == a["segmentation"].sum() and abs(a["area"] - b["area"]) <= differs.sum()
        assert a["crop_box"] == b["crop_box"]
        assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-5)
        assert a["stability_score"] == pytest.approx(b["stability_score"], abs=1e-3)
        np.testing.assert_allclose(a["point_coords"], b["point_coords"], rtol=1e-6)
        x, y, width, height = b["bbox"]  # their boxes are one pixel short
        np.testing.assert_allclose(
            a["bbox"], [x, y, width + 1, height + 1], atol=int(differs.any())
        )
    record_property("masks", dict(exact=exact, pixels_that_are_ties=tied))
    print(
        f"{len(ours)} masks: {exact} equal in every pixel, the others but for ties (pixels: {tied})"
    )


def make_logits_function(reference, image):
    """Returns a function from their record to its logits [H, W], by their predictor."""
    from parity.stand_ins import segment_anything

    predictor = segment_anything().SamPredictor(reference)

    def logits_of(record):
        left, top, width, height = map(int, record["crop_box"])
        predictor.set_image(image[top : top + height, left : left + width])
        click = np.array(record["point_coords"]) - [left, top]
        logits, iou, _ = predictor.predict(click, np.ones(1), return_logits=True)
        full = np.zeros(image.shape[:2], np.float32)
        of_mask = logits[np.abs(iou - record["predicted_iou"]).argmin()]
        full[top : top + height, left : left + width] = of_mask
        return full

    return logits_of


@pytest.mark.parametrize("name", ["astronaut", "coffee", "truck", "groceries"])
@pytest.mark.parametrize("crops", [0, 1])
@pytest.mark.parametrize("overlap", [0.7, 1.0])
def test_records_equal_those_of_segment_anything(
    theirs, name, crops, overlap, real_data, record_property
):
    """Random masks cover the image. Suppression leaves few, and 1.0 compares all of them."""
    generator, model, _ = theirs
    image = load_image(name, real_data)
    options = dict(
        points_per_side=5, points_per_batch=7, crop_n_layers=crops, stability_score_offset=0.02
    )
    options |= dict(box_nms_thresh=overlap, crop_nms_thresh=overlap)
    ours, expected = make_records(MODEL, generator, model, image, options)
    assert len(expected) > (20 if overlap == 1 else 0)
    assert_same_records(ours, expected, make_logits_function(model, image), record_property)


@pytest.mark.parametrize("name", ["truck", "groceries"])
@pytest.mark.parametrize("smallest", [0, 1000])  # affects about a third of the masks
def test_records_of_object_like_masks_equal_those_of_segment_anything(
    theirs, name, smallest, real_data, record_property, monkeypatch
):
    """Uses masks of all sizes, which both suppressions, crop edges and the clean-up affect."""
    from parity import stand_ins

    monkeypatch.setitem(sys.modules, "cv2", stand_ins.opencv())
    generator, _, discs = theirs
    image = load_image(name, real_data)
    options = dict(points_per_side=16, crop_n_layers=1, crop_n_points_downscale_factor=2)
    ours, expected = make_records(
        BLOBS, generator, discs, image, options | dict(min_mask_region_area=smallest)
    )
    assert len(expected) > 50 and len({tuple(r["crop_box"]) for r in expected}) > 3
    assert_same_records(ours, expected, make_logits_function(discs, image), record_property)
