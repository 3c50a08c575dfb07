"""Automatic mask generation equals segment-anything's algorithm, written out plainly below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blobs import blobs
from golden.drawn_weights import drawn_variables
from greedy_suppression import greedy
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage import data

import segjax
from segjax.inference.sam import candidate_filters, stability_score
from segjax.inference.sam import candidates as candidates_module
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.sam.crops import make_crops, make_point_grid
from segjax.inference.sam.mask_records import decode_record_mask, make_label_map
from segjax.models.sam.build import build_sam, init_sam

DRAWN, MODEL = build_sam("sam_debug"), blobs("sam_debug")


def photograph(name, size):
    return np.asarray(Image.fromarray(getattr(data, name)()).resize(size))


IMAGES = [photograph("astronaut", (90, 70)), photograph("coffee", (64, 100))]


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, drawn_variables(DRAWN, init_sam))


@pytest.fixture(scope="module")
def limits(variables):
    """Returns thresholds that some masks pass and some do not."""
    everything = SamAutomaticMaskGenerator(
        MODEL, variables, 8, pred_iou_thresh=-1e9, stability_score_thresh=0.0
    )
    found = everything.propose(IMAGES[0])
    assert len(found) > 50
    return dict(
        pred_iou_thresh=float(np.quantile(found.predicted_iou, 0.303)),
        stability_score_thresh=float(np.quantile(found.stability, 0.303)),
    )


def reference(
    variables,
    image,
    *,
    side,
    pred_iou_thresh,
    stability_score_thresh,
    layers=0,
    box=0.7,
    crop_nms=0.7,
):
    """Computes all masks at full size, then applies one filter after another.

    Returns:
      A list of (mask, predicted IoU, stability score, point, crop).
    """
    predictor = segjax.SamPredictor(MODEL, variables)
    height, width = image.shape[:2]
    kept = []
    for crop in make_crops((height, width), layers, 512 / 1500):
        left, top, right, bottom = crop.box
        predictor.set_image(image[top:bottom, left:right])
        points = make_point_grid(side) * (right - left, bottom - top)
        logits, iou, _ = predictor.predict_batch(
            points[:, None], np.ones((len(points), 1)), return_logits=True
        )
        candidates = []
        for point, masks, ious in zip(points, logits, iou, strict=True):
            for mask, score in zip(masks, ious, strict=True):
                stability = (mask > 1).sum() / max((mask > -1).sum(), 1)
                if (
                    not score > pred_iou_thresh
                    or not stability >= stability_score_thresh
                    or not (mask > 0).any()
                ):
                    continue
                full = np.zeros((height, width), bool)
                full[top:bottom, left:right] = mask > 0
                edges = inclusive_box(full)
                crop_edge = np.abs(edges - np.array(crop.box)) <= 20
                if (crop_edge & (np.abs(edges - np.array([0, 0, width, height])) > 20)).any():
                    continue
                candidates.append((full, score, stability, point + (left, top), crop))
        kept += suppress(candidates, [c[1] for c in candidates], box)
    if layers:
        kept = suppress(kept, [1 / np.prod(c[4].size) for c in kept], crop_nms)
    return kept


def inclusive_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def suppress(candidates, scores, threshold):
    return [
        candidates[place]
        for place in greedy([inclusive_box(c[0]) for c in candidates], scores, threshold)
    ]


def assert_same(records, expected):
    assert len(records) == len(expected) > 3
    for record, (mask, iou, stability, point, crop) in zip(records, expected, strict=True):
        np.testing.assert_array_equal(decode_record_mask(record["segmentation"]), mask)
        assert record["area"] == mask.sum()
        assert record["predicted_iou"] == pytest.approx(iou, rel=1e-4)
        assert record["stability_score"] == pytest.approx(stability, rel=1e-5)
        np.testing.assert_allclose(record["point_coords"], [point], rtol=1e-5)
        left, top, right, bottom = crop.box
        assert record["crop_box"] == [left, top, right - left, bottom - top]


@pytest.mark.parametrize("image", [0, 1])
def test_the_masks_are_those_of_the_reference_algorithm(variables, limits, image):
    generator = SamAutomaticMaskGenerator(MODEL, variables, 8, points_per_batch=24, **limits)
    assert_same(
        generator.generate(IMAGES[image]),
        reference(variables, IMAGES[image], side=8, **limits),
    )


def test_masks_of_the_complete_sam_equal_the_reference(variables):
    """Uses random weights. Their masks are noise, and only the most confident one remains."""
    limits = dict(pred_iou_thresh=-1e9, stability_score_thresh=0.0)
    (record,) = SamAutomaticMaskGenerator(DRAWN, variables, 4, **limits).generate(IMAGES[0])
    predictor = segjax.SamPredictor(DRAWN, variables)
    predictor.set_image(IMAGES[0])
    points = make_point_grid(4) * (90, 70)
    masks, iou, _ = predictor.predict_batch(points[:, None], np.ones((16, 1)))
    best = np.unravel_index(iou.argmax(), iou.shape)
    np.testing.assert_array_equal(record["segmentation"], masks[best])
    assert record["predicted_iou"] == pytest.approx(iou.max(), rel=1e-5)
    np.testing.assert_allclose(record["point_coords"], [points[best[0]]])


def test_masks_of_crops_equal_the_reference(variables, limits):
    generator = SamAutomaticMaskGenerator(
        MODEL, variables, 4, crop_n_layers=1, output_mode="coco_rle", **limits
    )
    big = photograph("astronaut", (180, 150))
    expected = reference(variables, big, side=4, layers=1, **limits)
    assert {c[4].layer for c in expected} == {0, 1}
    assert_same(generator.generate(big), expected)


def test_boxes_are_exact_and_modes_agree(variables, limits):
    plain, loose, packed = (
        SamAutomaticMaskGenerator(MODEL, variables, 4, output_mode=mode, **limits).generate(
            IMAGES[0]
        )
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    for a, b, c in zip(plain, loose, packed, strict=True):
        assert a["bbox"] == c["bbox"] == coco_mask.toBbox(c["segmentation"]).tolist()
        assert (
            coco_mask.frPyObjects(b["segmentation"], 70, 90)["counts"].decode()
            == c["segmentation"]["counts"]
        )
        np.testing.assert_array_equal(a["segmentation"], coco_mask.decode(c["segmentation"]))
        np.testing.assert_array_equal(a["segmentation"], decode_record_mask(b["segmentation"]))


def test_several_images_at_once_and_other_batches_change_nothing(variables, limits):
    alone = SamAutomaticMaskGenerator(MODEL, variables, 4, output_mode="coco_rle", **limits)
    together = SamAutomaticMaskGenerator(
        MODEL,
        variables,
        4,
        points_per_batch=5,
        output_mode="coco_rle",
        views_per_batch=2,
        progress=True,
        **limits,
    )
    for one, many in zip(
        [alone.generate(p) for p in IMAGES], together.generate(IMAGES), strict=True
    ):
        assert [r["segmentation"] for r in one] == [r["segmentation"] for r in many] and len(one)


def test_large_images_are_measured_tile_by_tile(variables, limits, monkeypatch):
    whole = SamAutomaticMaskGenerator(MODEL, variables, 4, **limits).generate(IMAGES[0])
    monkeypatch.setattr(stability_score, "TILE", 32)  # 3 x 3 tiles, some without mask pixels
    monkeypatch.setattr(candidates_module, "BYTES_AT_A_TIME", 2 * 96 * 96)
    assert_equal_records(
        SamAutomaticMaskGenerator(MODEL, variables, 4, **limits).generate(IMAGES[0]), whole
    )


def assert_equal_records(records, expected):
    assert len(records) == len(expected) > 0
    for a, b in zip(records, expected, strict=True):
        np.testing.assert_array_equal(a.pop("segmentation"), b.pop("segmentation"))
        assert a == b


def test_thresholds_are_tuned_without_the_network(variables, limits, monkeypatch):
    generator = SamAutomaticMaskGenerator(MODEL, variables, 4, **limits)
    loose = dict(pred_iou_thresh=-1e9, stability_score_thresh=0.1)
    found = generator.propose(IMAGES[0], **loose)
    expected = generator.generate(IMAGES[0])
    monkeypatch.setattr(candidates_module, "decode_prompts", None)
    assert_equal_records(generator.select(found), expected)
    assert len(generator.select(found, box_nms_thresh=1.0)) > len(
        generator.select(found, box_nms_thresh=0.1)
    )
    blocks = generator.select(found)
    monkeypatch.setattr(candidate_filters, "BLOCK", 7)
    assert_equal_records(generator.select(found), blocks)
    with pytest.raises(
        ValueError, match="stability_score_thresh is 0.05, but the candidates were made with 0.1"
    ):
        generator.select(found, stability_score_thresh=0.05)
    with pytest.raises(ValueError, match="unknown threshold iou; choose from pred_iou_thresh"):
        generator.select(found, iou=0.5)


def test_small_regions_are_removed(variables, limits):
    generator = SamAutomaticMaskGenerator(MODEL, variables, 4, min_mask_region_area=40, **limits)
    records = generator.generate(IMAGES[0])
    assert records and len(records) <= len(
        generator.select(generator.propose(IMAGES[0]), min_mask_region_area=0)
    )
    for record in records:
        mask = record["segmentation"]
        for part in (mask, ~mask):
            labels, count = ndimage.label(part, np.ones((3, 3)))
            sizes = np.bincount(labels.ravel())[1:]
            assert count <= 1 or sizes.min() >= 40
        assert record["area"] == mask.sum()


def test_masks_of_the_whole_image_can_be_dropped(variables, limits):
    generator = SamAutomaticMaskGenerator(MODEL, variables, 4, **limits)
    found = generator.propose(IMAGES[0])
    areas = sorted(r["area"] for r in generator.select(found))
    fraction = areas[-1] / IMAGES[0][..., 0].size
    assert sorted(r["area"] for r in generator.select(found, max_mask_area=fraction)) == [
        area for area in areas if area < areas[-1]
    ]


def test_no_candidates_give_no_records(variables):
    generator = SamAutomaticMaskGenerator(
        MODEL, variables, 2, pred_iou_thresh=1e9, crop_n_layers=1, min_mask_region_area=9
    )
    assert generator.generate(IMAGES[0]) == []
    assert not make_label_map([], (3, 4)).any()


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_a_full_mask_gives_a_record_and_an_empty_mask_none(variables, monkeypatch, mode):
    logits = jnp.broadcast_to(jnp.array([1.0, 9, -9, -9])[:, None, None], (1, 1, 4, 16, 16))
    monkeypatch.setattr(
        candidates_module, "decode_prompts", lambda *_: (logits, jnp.ones((1, 1, 4)))
    )
    generator = SamAutomaticMaskGenerator(MODEL, variables, 1, output_mode=mode)
    (record,) = generator.generate(IMAGES[0])
    assert decode_record_mask(record["segmentation"]).all() and record["area"] == 70 * 90
    assert record["bbox"] == [0, 0, 90, 70] and record["stability_score"] == 1
    runs = {"size": [70, 90], "counts": [0, 6300]}
    if mode == "uncompressed_rle":
        assert record["segmentation"] == runs
    if mode == "coco_rle":
        assert (
            record["segmentation"]["counts"]
            == coco_mask.frPyObjects(runs, 70, 90)["counts"].decode()
        )
    monkeypatch.setattr(
        candidates_module, "decode_prompts", lambda *_: (-jnp.abs(logits), jnp.ones((1, 1, 4)))
    )
    assert (
        SamAutomaticMaskGenerator(MODEL, variables, 1, stability_score_thresh=0.0).generate(
            IMAGES[0]
        )
        == []
    )


def test_crops_of_several_images_share_encoder_calls(variables, limits):
    options = dict(crop_n_layers=1, output_mode="coco_rle") | limits
    alone = SamAutomaticMaskGenerator(MODEL, variables, 3, **options)
    together = SamAutomaticMaskGenerator(MODEL, variables, 3, views_per_batch=3, **options)
    for one, many in zip(
        [alone.generate(p) for p in IMAGES], together.generate(tuple(IMAGES)), strict=True
    ):
        assert [r["segmentation"] for r in one] == [r["segmentation"] for r in many] and len(one)


def test_one_bad_image_of_several_is_named(variables):
    with pytest.raises(ValueError, match="image 1: pixels are int64"):
        SamAutomaticMaskGenerator(MODEL, variables, 1).generate(
            [IMAGES[0], IMAGES[0].astype(np.int64)]
        )
    assert SamAutomaticMaskGenerator(MODEL, variables, 1).generate([]) == []


def test_an_iou_threshold_of_zero_keeps_every_mask(variables):
    found = SamAutomaticMaskGenerator(
        MODEL, variables, 4, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )
    assert found.propose(IMAGES[0]).predicted_iou.min() < 0


def test_a_label_map_shows_parts_on_top_of_wholes():
    big, small = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    big[:3], small[1:, :2] = True, True
    labels = make_label_map(
        [{"segmentation": m, "area": int(m.sum())} for m in (small, big)], (4, 5)
    )
    assert labels.tolist() == [[2] * 5, [1, 1, 2, 2, 2], [1, 1, 2, 2, 2], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(points_per_batch=0), "points_per_batch is 0; expected at least 1"),
        (dict(crop_n_layers=-1), "crop_n_layers is -1; expected at least 0"),
        (dict(points_per_side=0), "points_per_side is 0"),
        (dict(views_per_batch=-1), "views_per_batch is -1"),
        (
            dict(points_per_side=None, point_grids=[np.full((3, 2), 40)]),
            "values 40 to 40; expected .N, 2., .*between 0 and 1",
        ),
        (dict(output_mode="png"), "'png' is unknown; choose one of binary_mask"),
        (dict(points_per_side=None), "points_per_side is None and point_grids is None"),
        (dict(point_grids=[np.zeros((1, 2))]), "is 32 and point_grids is not None"),
        (
            dict(points_per_side=None, point_grids=[np.zeros((1, 2))], crop_n_layers=1),
            "1 point_grids for crop_n_layers=1",
        ),
    ],
)
def test_invalid_arguments_are_errors(variables, options, message):
    with pytest.raises(ValueError, match=message):
        SamAutomaticMaskGenerator(MODEL, variables, **options)
