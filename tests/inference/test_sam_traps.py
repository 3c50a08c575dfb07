"""Typical mistakes of SAM ports between image and canvas, and in automatic mask generation.

Each test also computes the mistaken result and checks that it differs. Mistakes in the model itself
are tested in tests/models/test_sam_traps.py.
"""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import make_framed_image, make_framed_logits
from plain_sam import PlainSam, resize

from segjax.images.transforms import compute_fitted_size
from segjax.inference.sam import candidates as candidates_module
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.sam.candidates import MaskCandidates
from segjax.inference.sam.crops import Crop
from segjax.inference.sam.postprocess import compute_image_weights, resize_masks
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import compute_mask_box, encode_mask
from segjax.models.sam.build import SIZES, build_sam, init_sam
from segjax.models.sam.sam import Sam

MODEL = build_sam("sam_debug")
VARIABLES = drawn_variables(MODEL, init_sam)
# Size of an image, and of its content on the canvas of 64. 40.85 rows become 41.
HW, CONTENT = (30, 47), (41, 64)
# Relative to the largest magnitude: rounding differences, and the least effect of a mistake.
SAME, OTHER = 5e-6, 1e-4


def difference(a, b):
    return np.abs(np.asarray(a) - b).max() / np.abs(b).max()


# Prompts to the canvas

POINTS, LABELS, BOX = np.array([[5.0, 26], [40, 3]]), [1, 0], np.array([3.0, 4, 44, 28])


@pytest.fixture(scope="module")
def low_res_and_plain():
    """Returns our low-res logits, and a function that computes plain NumPy's for a mapping."""
    predictor = SamPredictor(MODEL, VARIABLES)
    predictor.set_image(make_framed_image(HW))
    plain, embedding = PlainSam(MODEL, VARIABLES), np.asarray(predictor.features[0], np.float64)

    def predict_plainly(to_canvas):
        box = to_canvas(BOX.reshape(2, 2)).reshape(4)
        return plain.decode(embedding, *plain.prompt(to_canvas(POINTS), LABELS, box))[0][1:]

    return predictor.predict(POINTS, LABELS, BOX)[2], predict_plainly


RATIO = np.array([CONTENT[1] / HW[1], CONTENT[0] / HW[0]])


@pytest.mark.parametrize(
    "mistaken",
    [
        pytest.param(lambda xy: (xy + 0.5) * RATIO - 0.5, id="half_pixel_is_added_on_the_canvas"),
        pytest.param(lambda xy: xy * 64 / 47, id="coordinates_scale_by_the_rounded_sizes"),
        pytest.param(
            lambda xy: xy * 64 / [47, 30],
            id="coordinates_are_divided_by_the_canvas_not_the_content",
        ),
        pytest.param(lambda xy: xy[:, ::-1] * RATIO, id="x_comes_before_y"),
    ],
)
def test_prompts_move_to_the_canvas_as_in_sam(low_res_and_plain, mistaken):
    ours, predict_plainly = low_res_and_plain
    right = predict_plainly(lambda xy: xy * RATIO)
    assert difference(ours, right) < SAME
    assert difference(predict_plainly(mistaken), right) > OTHER


# Masks back to the image

LOW_RES = make_framed_logits(HW, MODEL.mask_side)[0]


def resize_by_segjax(low_res, hw=HW, logits=True):
    sides = zip(compute_fitted_size(hw, MODEL.canvas), hw, strict=True)
    weights = [compute_image_weights(MODEL.mask_side, MODEL.canvas, *side) for side in sides]
    return np.asarray(resize_masks(low_res[None], *weights, return_logits=logits))[0]


def resize_plainly(low_res, rows, columns):
    return resize(resize(low_res, rows, 0), columns, 1)


def test_masks_are_resized_through_the_canvas():
    """Masks are not resize from the content's part of the grid straight to the image."""
    right = resize_plainly(resize_plainly(LOW_RES, 64, 64)[: CONTENT[0], : CONTENT[1]], *HW)
    assert difference(resize_by_segjax(LOW_RES), right) < SAME
    assert difference(resize_plainly(LOW_RES[: round(CONTENT[0] / 4)], *HW), right) > 0.01


def test_masks_are_resized_without_antialiasing():
    """Uses an image a quarter of the canvas wide, where an antialiased resize would average."""
    right = resize_plainly(resize_plainly(LOW_RES, 64, 64), 16, 16)
    assert difference(resize_by_segjax(LOW_RES, (16, 16)), right) < SAME
    antialiased = resize_plainly(LOW_RES, 64, 64).reshape(16, 4, 16, 4).mean((1, 3))
    assert difference(antialiased, right) > 0.01


def test_logits_are_resized_before_the_threshold():
    mask = resize_by_segjax(LOW_RES, logits=False)
    np.testing.assert_array_equal(mask, resize_by_segjax(LOW_RES) > 0)
    assert (mask != (resize_by_segjax(np.where(LOW_RES > 0, 1, -1)) > 0)).mean() > 0.01
    assert not resize_by_segjax(np.zeros_like(LOW_RES), logits=False).any()  # 0 is outside


# Automatic mask generation: candidates of a click


def make_sam(logits, iou):
    """Returns a SAM that predicts the same masks [4, 16, 16] and IoUs [4] for every click."""

    class FixedSam(Sam):
        def encode_image(self, images, sizes=None, *, train=False):
            return jnp.zeros((len(images), 4, 4, 32))

        def decode(self, embedding, prompts):
            batch = prompts.points.shape[:2]
            return jnp.broadcast_to(logits, (*batch, 4, 16, 16)), jnp.broadcast_to(
                jnp.asarray(iou), (*batch, 4)
            )

    return FixedSam(**SIZES["sam_debug"])


DISTANCE = np.hypot(*(np.indices((16, 16)) - 7.5))
STEEP, SHALLOW, EMPTY = 4 * (4.2 - DISTANCE), 0.5 * (5 - DISTANCE), np.full((16, 16), -10.0)
FOUR = np.stack([STEEP + 1, SHALLOW, STEEP, EMPTY]).astype(np.float32)
IMAGE = np.zeros((64, 64, 3), np.uint8)
LOOSE = dict(pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)


def stability(logits):
    with np.errstate(invalid="ignore"):
        return (logits > 1).sum() / (logits > -1).sum()


@pytest.fixture
def measured(monkeypatch):
    """Returns the list of (mask, its stability score) for every mask that is resize."""
    seen, real = [], candidates_module.measure_masks

    def measure_masks(logits, index, *rest, **options):
        out = real(logits, index, *rest, **options)
        seen.extend(zip(index[:, 1].tolist(), out.stability.tolist(), strict=True))
        return out

    monkeypatch.setattr(candidates_module, "measure_masks", measure_masks)
    monkeypatch.setattr(candidates_module, "BYTES_AT_A_TIME", 128 * 128)
    return seen


def test_an_empty_mask_has_stability_score_0_not_nan(measured):
    assert np.isnan(stability(EMPTY))
    candidates = SamAutomaticMaskGenerator(
        make_sam(FOUR, [0.9, 0.7, 0.8, 0.6]), {}, 1, **LOOSE
    ).propose(IMAGE)
    assert measured[2] == (2, 0.0) and len(candidates) == 2


def test_the_stability_score_is_computed_at_full_size_and_stays_with_its_mask():
    """The mask with the higher predicted IoU comes first and is less stable."""
    records = SamAutomaticMaskGenerator(
        make_sam(FOUR, [0.9, 0.8, 0.7, 0.6]), {}, 1, **LOOSE
    ).generate(IMAGE)
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.8, 0.7])
    for record, low_res in zip(records, (SHALLOW, STEEP), strict=True):
        full = resize_plainly(low_res, 64, 64)
        np.testing.assert_array_equal(record["segmentation"], full > 0)
        assert record["stability_score"] == pytest.approx(stability(full), abs=1e-6)
        assert abs(stability(low_res) - stability(full)) > 0.02


def test_masks_below_the_iou_threshold_are_never_resized(measured):
    options = LOOSE | dict(pred_iou_thresh=0.75)
    SamAutomaticMaskGenerator(make_sam(FOUR, [0.9, 0.7, 0.8, 0.6]), {}, 3, **options).propose(IMAGE)
    assert [which for which, _ in measured] == [1] * 9


def test_a_click_gives_the_three_masks_and_never_the_single_one():
    records = SamAutomaticMaskGenerator(
        make_sam(FOUR, [0.99, 0.7, 0.8, 0.6]), {}, 1, **LOOSE
    ).generate(IMAGE)
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.8, 0.7])


# Automatic mask generation: filters


def box_mask(x1, y1, x2, y2, hw=(60, 60)):
    """Returns a mask that is True in columns x1..x2 - 1 and rows y1..y2 - 1."""
    mask = np.zeros(hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


WHOLE = Crop((0, 0, 60, 60), 0)


def select(masks, iou, *, stability=None, crop=None, crops=(WHOLE,), **thresholds):
    """Returns the indices of the masks that the filters keep, in order, and the records."""
    count, hw = len(masks), masks[0].shape
    candidates = MaskCandidates(
        hw=hw,
        crops=list(crops),
        rle=[encode_mask(mask) for mask in masks],
        box=np.array([compute_mask_box(mask) - (0, 0, 1, 1) for mask in masks], np.float32),
        area=np.array([mask.sum() for mask in masks]),
        predicted_iou=np.array(iou, np.float32),
        stability=np.ones(count, np.float32)
        if stability is None
        else np.array(stability, np.float32),
        # The x of the click is the index of the mask.
        point=np.stack([np.arange(count), np.zeros(count)], 1).astype(np.float32),
        crop=np.zeros(count, int) if crop is None else np.array(crop),
        floors=(-np.inf, 0.0),
    )
    records = SamAutomaticMaskGenerator(MODEL, {}, 1).select(candidates, **thresholds)
    return [int(record["point_coords"][0][0]) for record in records], records


def test_defaults_of_automatic_mask_generation_are_the_published_ones():
    """Masks of the whole image are kept, as in the published code and unlike in the paper."""
    parameters = inspect.signature(SamAutomaticMaskGenerator).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    published = dict(
        points_per_side=32, points_per_batch=64, pred_iou_thresh=0.88, stability_score_thresh=0.95
    )
    published |= dict(
        stability_score_offset=1.0, box_nms_thresh=0.7, crop_nms_thresh=0.7, crop_n_layers=0
    )
    published |= dict(
        crop_overlap_ratio=512 / 1500, crop_n_points_downscale_factor=1, point_grids=None
    )
    published |= dict(min_mask_region_area=0, output_mode="binary_mask", max_mask_area=None)
    assert published.items() <= defaults.items()


def test_predicted_iou_must_exceed_its_threshold_and_the_stability_score_must_reach_it():
    apart = [box_mask(20 * i, 0, 20 * i + 10, 9) for i in range(3)]
    at = dict(pred_iou_thresh=0.875, stability_score_thresh=0.75)  # both exact in float32
    assert select(apart, [0.875, 0.9, 0.9], **at)[0] == [1, 2]
    assert select(apart, [0.9] * 3, stability=[0.75, 0.74, 1], **at)[0] == [0, 2]


def test_suppression_prefers_high_predicted_iou_within_and_smaller_crops_between():
    masks = [box_mask(10, 10, 30, 30), box_mask(10, 10, 30, 31), box_mask(10, 10, 31, 30)]
    assert select(masks, [0.9, 0.95, 0.92])[0] == [1]
    crops = [WHOLE, Crop((0, 0, 40, 40), 1), Crop((0, 0, 40, 39), 1)]
    assert select(masks, [0.99, 0.9, 0.95], crop=[0, 1, 2], crops=crops)[0] == [2]
    assert select(masks, [0.99, 0.9, 0.95], crop=[0, 2, 1], crops=crops)[0] == [1]


def test_the_number_of_masks_is_unlimited():
    masks = [
        box_mask(5 * (i % 12), 5 * (i // 12), 5 * (i % 12) + 4, 5 * (i // 12) + 4)
        for i in range(144)
    ]
    assert sorted(select(masks, np.linspace(0.9, 1, 144))[0]) == list(range(144))


def test_after_clean_up_unchanged_masks_win_and_the_larger_threshold_counts():
    speck = box_mask(55, 55, 57, 57)
    unchanged, edited = box_mask(5, 5, 25, 25), box_mask(5, 5, 25, 26) | speck
    clean = dict(min_mask_region_area=50, box_nms_thresh=0.3, crop_nms_thresh=0.3)
    assert select([edited, unchanged], [0.99, 0.9], **clean | dict(min_mask_region_area=0))[0] == [
        0,
        1,
    ]
    indices, records = select([edited, unchanged], [0.99, 0.9], **clean)
    assert indices == [1] and records[0]["area"] == 400
    indices, records = select(
        [edited, unchanged], [0.99, 0.9], **clean | dict(crop_nms_thresh=0.97)
    )
    assert indices == [1, 0] and not (records[1]["segmentation"] & speck).any()
    assert records[1]["bbox"] == [5, 5, 20, 21]
