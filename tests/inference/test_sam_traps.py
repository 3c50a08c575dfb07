"""Where ports of SAM go wrong between the picture and the canvas, and in segment-everything.

Each test computes the wrong way too, and asks that it differ. Traps of the model itself are in
tests/models/test_sam_traps.py.
"""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import framed_logits, framed_picture
from plain_sam import PlainSam, resized

from segjax.images.transforms import compute_fitted_size
from segjax.inference.sam import candidates as candidates_module
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.sam.candidates import MaskCandidates
from segjax.inference.sam.crops import Crop
from segjax.inference.sam.postprocess import compute_image_weights, resize_to_image
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import compute_mask_box, encode_mask, remove_small_regions
from segjax.models.sam.build import SIZES, build_sam, init_sam
from segjax.models.sam.sam import Sam

MODEL = build_sam("sam_debug")
VARIABLES = drawn_variables(MODEL, init_sam)
HW, CONTENT = (30, 47), (41, 64)  # of a picture, and on the canvas of 64: 40.85 rows become 41
SAME, OTHER = (
    5e-6,
    1e-4,
)  # of the largest magnitude: our arithmetic, and what a mistake moves at least


def difference(a, b):
    return np.abs(np.asarray(a) - b).max() / np.abs(b).max()


# --- prompts onto the canvas ------------------------------------------------------------------------------------------

POINTS, LABELS, BOX = np.array([[5.0, 26], [40, 3]]), [1, 0], np.array([3.0, 4, 44, 28])


@pytest.fixture(scope="module")
def asked():
    """(low-res logits of our predictor for `POINTS` and `BOX`, function of a way onto the canvas to plain NumPy's)."""
    predictor = SamPredictor(MODEL, VARIABLES)
    predictor.set_image(framed_picture(HW))
    plain, embedding = PlainSam(MODEL, VARIABLES), np.asarray(predictor.features[0], np.float64)

    def answer(onto_canvas):
        box = onto_canvas(BOX.reshape(2, 2)).reshape(4)
        return plain.decode(embedding, *plain.prompt(onto_canvas(POINTS), LABELS, box))[0][1:]

    return predictor.predict(POINTS, LABELS, BOX)[2], answer


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
def test_coordinates(asked, mistaken):
    ours, answer = asked
    right = answer(lambda xy: xy * RATIO)
    assert difference(ours, right) < SAME
    assert difference(answer(mistaken), right) > OTHER


# --- masks back into the picture --------------------------------------------------------------------------------------

LOW_RES = framed_logits(HW, MODEL.mask_side)[0]


def in_picture(low_res, hw=HW, logits=True):
    four = np.zeros((1, 4, *low_res.shape), np.float32)
    four[0, 0] = low_res
    sides = zip(compute_fitted_size(hw, MODEL.canvas), hw, strict=True)
    weights = [compute_image_weights(MODEL.mask_side, MODEL.canvas, *side) for side in sides]
    return np.asarray(
        resize_to_image(four[None], 0, 0, *weights, multimask=False, return_logits=logits)[0]
    )[0]


def plainly(low_res, rows, columns):
    return resized(resized(low_res, rows, 0), columns, 1)


def test_low_res_goes_by_the_canvas():
    """Grid -> canvas, cut to the content, -> picture; not the content's part of the grid straight to the picture."""
    right = plainly(plainly(LOW_RES, 64, 64)[: CONTENT[0], : CONTENT[1]], *HW)
    assert difference(in_picture(LOW_RES), right) < SAME
    assert difference(plainly(LOW_RES[: round(CONTENT[0] / 4)], *HW), right) > 0.01


def test_masks_are_resized_without_antialiasing():
    """To a picture a quarter of the canvas across, where an antialiasing resize would average."""
    right = plainly(plainly(LOW_RES, 64, 64), 16, 16)
    assert difference(in_picture(LOW_RES, (16, 16)), right) < SAME
    averaged = plainly(LOW_RES, 64, 64).reshape(16, 4, 16, 4).mean((1, 3))
    assert difference(averaged, right) > 0.01


def test_logits_are_resized_and_then_compared_with_0():
    mask = in_picture(LOW_RES, logits=False)
    np.testing.assert_array_equal(mask, in_picture(LOW_RES) > 0)
    assert (mask != (in_picture(np.where(LOW_RES > 0, 1, -1)) > 0)).mean() > 0.01
    assert not in_picture(np.zeros_like(LOW_RES), logits=False).any()  # 0 is outside


# --- segment everything: what a click proposes ------------------------------------------------------------------------


def told(logits, iou):
    """A SAM that answers every click with the same four masks [4, 16, 16] and IoUs [4]."""

    class Told(Sam):
        def encode_image(self, images, sizes=None, *, train=False):
            return jnp.zeros((len(images), 4, 4, 32))

        def decode(self, embedding, prompts):
            batch = prompts.points.shape[:2]
            return jnp.broadcast_to(logits, (*batch, 4, 16, 16)), jnp.broadcast_to(
                jnp.asarray(iou), (*batch, 4)
            )

    return Told(**SIZES["sam_debug"])


DISTANCE = np.hypot(*(np.indices((16, 16)) - 7.5))
STEEP, SHALLOW, EMPTY = 4 * (4.2 - DISTANCE), 0.5 * (5 - DISTANCE), np.full((16, 16), -10.0)
FOUR = np.stack([STEEP + 1, SHALLOW, STEEP, EMPTY]).astype(np.float32)
PICTURE = np.zeros((64, 64, 3), np.uint8)
LOOSE = dict(pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)


def stability(logits):
    with np.errstate(invalid="ignore"):
        return (logits > 1).sum() / (logits > -1).sum()


@pytest.fixture
def measured(monkeypatch):
    """[(which mask, its stability), ..] of every mask that is brought to full size; one at a time."""
    seen, real = [], candidates_module.measure_masks

    def measure_masks(logits, index, *rest, **options):
        out = real(logits, index, *rest, **options)
        seen.extend(zip(index[:, 1].tolist(), out.stability.tolist(), strict=True))
        return out

    monkeypatch.setattr(candidates_module, "measure_masks", measure_masks)
    monkeypatch.setattr(candidates_module, "BYTES_AT_A_TIME", 128 * 128)
    return seen


def test_an_empty_mask_is_not_stable_nan(measured):
    assert np.isnan(stability(EMPTY))
    found = SamAutomaticMaskGenerator(told(FOUR, [0.9, 0.7, 0.8, 0.6]), {}, 1, **LOOSE).propose(
        PICTURE
    )
    assert measured[2] == (2, 0.0) and len(found) == 2


def test_stability_is_measured_at_full_size_and_stays_with_its_mask():
    """The surer mask comes first and is the less stable one."""
    records = SamAutomaticMaskGenerator(told(FOUR, [0.9, 0.8, 0.7, 0.6]), {}, 1, **LOOSE).generate(
        PICTURE
    )
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.8, 0.7])
    for record, low_res in zip(records, (SHALLOW, STEEP), strict=True):
        full = plainly(low_res, 64, 64)
        np.testing.assert_array_equal(record["segmentation"], full > 0)
        assert record["stability_score"] == pytest.approx(stability(full), abs=1e-6)
        assert abs(stability(low_res) - stability(full)) > 0.02


def test_masks_below_the_iou_threshold_are_never_brought_to_full_size(measured):
    options = LOOSE | dict(pred_iou_thresh=0.75)
    SamAutomaticMaskGenerator(told(FOUR, [0.9, 0.7, 0.8, 0.6]), {}, 3, **options).propose(PICTURE)
    assert [which for which, _ in measured] == [1] * 9


def test_a_click_has_its_three_masks_and_never_the_single_one():
    records = SamAutomaticMaskGenerator(told(FOUR, [0.99, 0.7, 0.8, 0.6]), {}, 1, **LOOSE).generate(
        PICTURE
    )
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.8, 0.7])


# --- segment everything: what of it stays -----------------------------------------------------------------------------


def box_mask(x1, y1, x2, y2, hw=(60, 60)):
    """bool [*hw], True in columns x1..x2 - 1 and rows y1..y2 - 1."""
    mask = np.zeros(hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


WHOLE = Crop((0, 0, 60, 60), 0)


def selected(masks, iou, *, stability=None, crop=None, crops=(WHOLE,), **thresholds):
    """Which of the masks `select` leaves, in its order, and the records."""
    count, hw = len(masks), masks[0].shape
    proposals = MaskCandidates(
        hw=hw,
        crops=list(crops),
        rle=[encode_mask(mask) for mask in masks],
        box=np.array([compute_mask_box(mask) - (0, 0, 1, 1) for mask in masks], np.float32),
        area=np.array([mask.sum() for mask in masks]),
        predicted_iou=np.array(iou, np.float32),
        stability=np.ones(count, np.float32)
        if stability is None
        else np.array(stability, np.float32),
        point=np.stack([np.arange(count), np.zeros(count)], 1).astype(
            np.float32
        ),  # says which mask a record is of
        crop=np.zeros(count, int) if crop is None else np.array(crop),
        floors=(-np.inf, 0.0),
    )
    records = SamAutomaticMaskGenerator(MODEL, {}, 1).select(proposals, **thresholds)
    return [int(record["point_coords"][0][0]) for record in records], records


def test_defaults_of_segment_everything_are_the_published_ones():
    """And no mask is dropped for covering the whole picture: the paper says so, its code does not."""
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


def test_predicted_iou_must_exceed_its_threshold_and_stability_reach_it():
    apart = [box_mask(20 * i, 0, 20 * i + 10, 9) for i in range(3)]
    at = dict(pred_iou_thresh=0.875, stability_score_thresh=0.75)  # both exact in float32
    assert selected(apart, [0.875, 0.9, 0.9], **at)[0] == [1, 2]
    assert selected(apart, [0.9] * 3, stability=[0.75, 0.74, 1], **at)[0] == [0, 2]


def test_in_a_crop_the_higher_predicted_iou_wins_and_across_crops_the_smaller_crop():
    masks = [box_mask(10, 10, 30, 30), box_mask(10, 10, 30, 31), box_mask(10, 10, 31, 30)]
    assert selected(masks, [0.9, 0.95, 0.92])[0] == [1]
    crops = [WHOLE, Crop((0, 0, 40, 40), 1), Crop((0, 0, 40, 39), 1)]
    assert selected(masks, [0.99, 0.9, 0.95], crop=[0, 1, 2], crops=crops)[0] == [2]
    assert selected(masks, [0.99, 0.9, 0.95], crop=[0, 2, 1], crops=crops)[0] == [1]


def test_no_number_of_masks_is_too_many():
    masks = [
        box_mask(5 * (i % 12), 5 * (i // 12), 5 * (i % 12) + 4, 5 * (i // 12) + 4)
        for i in range(144)
    ]
    assert sorted(selected(masks, np.linspace(0.9, 1, 144))[0]) == list(range(144))


def test_pixels_that_touch_at_a_corner_are_one_region():
    mask = np.eye(10, dtype=bool)
    assert not remove_small_regions(mask, 10)[1]
    ring = np.ones((9, 9), bool)
    ring[3, 3] = ring[4, 4] = False  # one hole of two pixels
    assert not remove_small_regions(ring, 2)[1] and remove_small_regions(ring, 3)[0].all()


def test_holes_are_filled_before_islands_are_dropped():
    """A ring of 8 pixels around a hole of 1 is an island of 9."""
    ring = box_mask(5, 5, 8, 8) & ~box_mask(6, 6, 7, 7)
    mask = ring | box_mask(20, 20, 40, 40)
    kept, edited = remove_small_regions(mask, 9)
    assert edited and kept.sum() == 400 + 9
    islands_first = mask & ~ring
    assert islands_first.sum() == 400


def test_if_all_islands_are_small_the_largest_stays():
    mask = box_mask(0, 0, 3, 3) | box_mask(10, 10, 14, 14) | box_mask(30, 30, 32, 32)
    np.testing.assert_array_equal(remove_small_regions(mask, 100)[0], box_mask(10, 10, 14, 14))


def test_after_clean_up_untouched_masks_go_first_and_the_larger_threshold_counts():
    speck = box_mask(55, 55, 57, 57)
    untouched, edited = box_mask(5, 5, 25, 25), box_mask(5, 5, 25, 26) | speck
    clean = dict(min_mask_region_area=50, box_nms_thresh=0.3, crop_nms_thresh=0.3)
    assert selected([edited, untouched], [0.99, 0.9], **clean | dict(min_mask_region_area=0))[
        0
    ] == [0, 1]
    places, records = selected([edited, untouched], [0.99, 0.9], **clean)
    assert places == [1] and records[0]["area"] == 400
    places, records = selected(
        [edited, untouched], [0.99, 0.9], **clean | dict(crop_nms_thresh=0.97)
    )
    assert places == [1, 0] and not (records[1]["segmentation"] & speck).any()
    assert records[1]["bbox"] == [5, 5, 20, 21]
