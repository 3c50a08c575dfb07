import functools

import jax
import numpy as np
import pytest
from compilations import compilations
from written_run import debug_variables, write_run

from segjax.images.intensities import stretch_intensities
from segjax.images.transforms import pad_to_canvas, resize_longest_side
from segjax.inference.sam import batching, jitted
from segjax.inference.sam.postprocess import compute_image_weights
from segjax.inference.sam.predictor import SamPredictor
from segjax.models.sam.build import build_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.ops.resize import resize_bilinear

HEIGHT, WIDTH = 30, 47
MODEL = build_sam("sam_debug")
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
BOXES = np.array([[3, 4, 20, 25.5], [10, 2, 46, 29], [0, 0, 47, 30]], np.float32)


@pytest.fixture(scope="module")
def predictor():
    made = SamPredictor(MODEL, debug_variables())
    made.set_image(IMAGE)
    return made


@functools.cache
def embedding():
    content = resize_longest_side(IMAGE, 64)
    encode = jax.jit(lambda v, *x: MODEL.apply(v, *x, method="encode_image"))
    sizes = np.array([content.shape[:2]])
    return encode(debug_variables(), pad_to_canvas(content, 64)[None], sizes)


def predict_step_by_step(prompts):
    """Runs the steps of segment-anything's predictor: logits [P, 4, H, W], iou and low_res."""
    decode = jax.jit(lambda v, *x: MODEL.apply(v, *x, method="decode"))
    low_res, iou = decode(debug_variables(), embedding(), prompts)
    content = resize_bilinear(low_res[0], (64, 64))[..., :41, :64]
    return (
        np.asarray(resize_bilinear(content, (HEIGHT, WIDTH))),
        np.asarray(iou[0]),
        np.asarray(low_res[0]),
    )


def to_canvas(xy):
    return np.asarray(xy, np.float32) * np.float32([64 / WIDTH, 41 / HEIGHT])


def test_clicks_match_the_model_applied_step_by_step(predictor):
    points, labels = [[5, 6], [20, 9], [0, 0]], [1, 0, -1]
    logits, iou, low_res = predict_step_by_step(
        Prompts(points=to_canvas(points)[None, None], labels=np.array([[[1, 0, -2]]]))
    )
    found = predictor.predict(points, labels, return_logits=True)
    assert [x.shape for x in found] == [(3, HEIGHT, WIDTH), (3,), (3, 16, 16)]
    for got, want in zip(found, (logits[0, 1:], iou[0, 1:], low_res[0, 1:]), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    masks, iou_one, _ = predictor.predict(points, labels, multimask_output=False)
    assert masks.dtype == bool
    sure = np.abs(logits[0, :1]) > 1e-3
    np.testing.assert_array_equal(masks[sure], logits[0, :1][sure] > 0)
    np.testing.assert_allclose(iou_one, iou[0, :1], atol=1e-4)


def test_a_batch_of_boxes_matches_single_boxes_and_padding_changes_nothing(predictor):
    corners = to_canvas(BOXES.reshape(1, 3, 2, 2)).reshape(1, 3, 4)
    logits, iou, _ = predict_step_by_step(Prompts(boxes=corners))
    masks, scores, low_res = predictor.predict_batch(
        boxes=BOXES, multimask_output=False, return_logits=True
    )
    assert masks.shape == (3, 1, HEIGHT, WIDTH) and low_res.shape == (3, 1, 16, 16)
    np.testing.assert_allclose(masks, logits[:, :1], atol=1e-4)
    np.testing.assert_allclose(scores, iou[:, :1], atol=1e-4)
    for box, mask in zip(BOXES, masks, strict=True):
        alone, _, _ = predictor.predict(box=box[None], multimask_output=False, return_logits=True)
        np.testing.assert_allclose(alone, mask, atol=1e-4)


def test_many_prompts_are_decoded_in_several_calls(predictor):
    boxes = np.tile(BOXES, (2, 1)) + np.arange(6)[:, None] * 0.5
    whole = [predictor.predict_batch(boxes=boxes[i : i + 3])[2] for i in (0, 3)]
    made = SamPredictor(MODEL, debug_variables(), prompts_per_batch=4)
    made.set_image(IMAGE)
    pieces = made.predict_batch(boxes=boxes)
    assert [len(x) for x in pieces] == [6, 6, 6]
    np.testing.assert_allclose(pieces[2], np.concatenate(whole), atol=1e-4)


def test_a_predictor_is_loaded_with_the_percentiles_of_its_run(tmp_path):
    run = write_run(tmp_path / "run")
    loaded = SamPredictor.load(run, overrides={"dtype": "bfloat16"}, prompts_per_batch=4)
    assert loaded.percentiles == (1, 99) and loaded.prompts_per_batch == 4
    assert loaded.model.dtype == "bfloat16"
    assert SamPredictor.load(run, percentiles=None).percentiles is None


@pytest.mark.parametrize("wrong", [debug_variables(), "sam_vit_b", None])
def test_a_model_of_another_kind_is_refused(wrong):
    with pytest.raises(ValueError, match=r"SAM and its variables, in this order.*got \w+ first"):
        SamPredictor(wrong, MODEL)


def test_images_of_any_sizes_share_few_programs():
    """Two blocks of columns are wide enough for these sizes, and prompts have two shapes."""
    predictor = SamPredictor(MODEL, debug_variables())
    generator = np.random.default_rng(3)
    with compilations() as seen:
        for number, hw in enumerate(generator.integers(20, 1000, (60, 2))):
            predictor.set_image(np.full((*hw, 3), number, np.uint8))
            masks, _, _ = predictor.predict([[5, 6]], [1], multimask_output=bool(number % 2))
            assert masks.shape[1:] == tuple(hw)
    assert len(seen) <= 12


def test_blocks_of_a_large_image_equal_the_whole(monkeypatch):
    predictor = SamPredictor(MODEL, debug_variables())
    predictor.set_image(np.full((70, 90, 3), 9, np.uint8))
    whole = predictor.predict([[5, 6]], [1], return_logits=True)[0]
    monkeypatch.setattr(batching, "BLOCK_ROWS", (32,))
    monkeypatch.setattr(batching, "BLOCK_COLUMNS", (16, 64))
    blocks = predictor.predict([[5, 6]], [1], return_logits=True)[0]
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-5)


def test_more_clicks_or_a_box_do_not_recompile(predictor):
    predictor.predict([[5, 6], [7, 8]], [1, 0])
    before = jitted.decode_prompts._cache_size(), batching.resize_masks._cache_size()
    predictor.predict([[5, 6], [7, 8], [9, 9]], [1, 0, 1])
    predictor.predict([[5, 6], [7, 8], [9, 9], [30, 3]], [1, 0, 1, 1])
    predictor.predict([[5, 6], [7, 8]], [1, 0], box=[3, 4, 20, 25])
    assert (jitted.decode_prompts._cache_size(), batching.resize_masks._cache_size()) == before


def test_mask_input_changes_the_prediction_and_may_have_any_usual_shape(predictor):
    _, _, low_res = predictor.predict([[5, 6]], [1])
    without = predictor.predict([[5, 6]], [1])[2]
    fed = predictor.predict([[5, 6]], [1], mask_input=low_res[:1] * 10)[2]
    assert np.abs(fed - without).max() > 1e-3
    np.testing.assert_array_equal(
        fed, predictor.predict([[5, 6]], [1], mask_input=low_res[0] * 10)[2]
    )
    batch = predictor.predict_batch([[[5, 6]]], [[1]], mask_input=low_res[None, :1] * 10)[2]
    np.testing.assert_array_equal(fed, batch[0])


def test_an_empty_prompt_is_allowed(predictor):
    assert predictor.predict()[0].shape == (3, HEIGHT, WIDTH)


def test_other_image_formats_become_rgb():
    made = SamPredictor(MODEL, debug_variables())
    features = {}
    for name, image, form in (
        ("rgb", IMAGE, "RGB"),
        ("bgr", IMAGE[..., ::-1], "BGR"),
        ("rgba", np.dstack([IMAGE, IMAGE[..., 0]]), "RGB"),
        ("gray", IMAGE[..., 0], "RGB"),
        ("gray rgb", IMAGE[..., [0, 0, 0]], "RGB"),
    ):
        made.set_image(image, form)
        features[name] = np.asarray(made.get_image_embedding())
        assert made.original_size == (HEIGHT, WIDTH) and made.input_size == (41, 64)
    assert features["rgb"].shape == (1, 4, 4, 32)
    np.testing.assert_allclose(features["rgb"], embedding(), atol=1e-4)
    np.testing.assert_array_equal(features["rgb"], features["bgr"])
    np.testing.assert_array_equal(features["rgb"], features["rgba"])
    np.testing.assert_array_equal(features["gray"], features["gray rgb"])


def test_intensities_are_stretched_as_in_training():
    dim = IMAGE // 4
    made = SamPredictor(MODEL, debug_variables(), percentiles=(1, 99))
    made.set_image(dim)
    stretched = SamPredictor(MODEL, debug_variables())
    stretched.set_image(stretch_intensities(dim, *np.percentile(dim, (1, 99))))
    np.testing.assert_array_equal(made.features, stretched.features)


@pytest.mark.parametrize("sizes", [(16, 64, 41, 30), (256, 1024, 1024, 1333), (16, 64, 1, 5)])
def test_image_weights_equal_two_resizes_with_a_crop_between(sizes):
    cells, canvas, content, original = sizes
    column = np.random.default_rng(1).normal(size=(cells, 1)).astype(np.float32)
    want = resize_bilinear(resize_bilinear(column, (canvas, 1))[:content], (original, 1))
    np.testing.assert_allclose(compute_image_weights(*sizes) @ column, want, atol=1e-5)


@pytest.mark.parametrize(
    "image, message",
    [
        (IMAGE.astype(np.int64), "pixels are int64; expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\).*channels go last"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((2, 8, 8, 3), np.uint8), "shape"),
        ("photo.png", "pixels are"),
    ],
)
def test_an_invalid_image_is_an_error_and_no_image_stays_set(image, message):
    made = SamPredictor(MODEL, debug_variables())
    with pytest.raises(ValueError, match=message):
        made.set_image(image)
    assert not made.is_image_set


def test_an_image_must_be_set_first_and_in_a_known_format():
    made = SamPredictor(MODEL, debug_variables())
    for method in (made.predict, made.predict_batch, made.get_image_embedding):
        with pytest.raises(ValueError, match="set_image"):
            method()
    with pytest.raises(ValueError, match="'RGB' or 'BGR'"):
        made.set_image(IMAGE, "HSV")


def test_reset_image_forgets(predictor):
    made = SamPredictor(MODEL, debug_variables())
    made.set_image(IMAGE)
    made.reset_image()
    assert not made.is_image_set and made.features is None
    with pytest.raises(ValueError, match="set_image"):
        made.predict([[1, 1]], [1])


@pytest.mark.parametrize(
    "prompt, message",
    [
        (
            dict(point_coords=[[47, 3]], point_labels=[1]),
            r"point \(47, 3\) is outside the image of width 47 and height 30",
        ),
        (dict(point_coords=[[3, -1]], point_labels=[1]), "outside the image"),
        (dict(point_coords=[[3, 4], [5, 6]], point_labels=[1]), "one label per point"),
        (dict(point_coords=[[3, 4]]), "without point_labels"),
        (dict(point_labels=[1]), "without point_coords"),
        (dict(point_coords=[[np.nan, 4]], point_labels=[1]), "point_coords holds NaN"),
        (dict(point_coords=[[3, 4, 5]], point_labels=[1]), "shape"),
        (
            dict(point_coords=[3, 4], point_labels=[1]),
            r"point_coords has shape \(2,\).*predict_batch",
        ),
        (dict(point_coords=[["a", "b"]], point_labels=[1]), "expected numbers"),
        (dict(point_coords=np.zeros((0, 2)), point_labels=[]), "empty"),
        (dict(point_coords=[[3, 4]], point_labels=[2]), "point label 2; expected 1"),
        (dict(box=[20, 3, 10, 8]), r"box \[20.0, 3.0, 10.0, 8.0\]: expected x1 < x2"),
        (dict(box=[3, 8, 10, 8]), "x1 < x2 and y1 < y2"),
        (dict(box=[50, 3, 60, 8]), "outside the image of 47 x 30"),
        (dict(box=[3, 3, np.inf, 8]), "infinity"),
        (dict(box=[3, 3, 8]), r"expected \[P, 4\]"),
        (dict(box=BOXES), "predict_batch"),
        (
            dict(point_coords=[[3, 4]], point_labels=[1], mask_input=np.zeros((1, 15, 16))),
            r"expected \[1, 16, 16\]",
        ),
        (dict(mask_input=np.full((16, 16), np.nan)), "mask_input holds NaN"),
        # Finite in float64, infinite in float32
        (dict(box=[3, 3, 1e300, 8]), r"box holds 1e\+300; expected numbers between -1e\+09"),
        (dict(point_coords=[[3, 4], [1e39, 0]], point_labels=[1, -1]), "point_coords holds 1e"),
        (dict(mask_input=np.full((16, 16), -1e200)), "mask_input holds -1e"),
        (dict(mask_input=np.full((16, 16), 1e30)), "mask_input holds 1e"),
        # Masks in place of logits
        (dict(mask_input=np.eye(16) > 0), "mask_input is a binary mask .bool, .*as_mask_input"),
        (dict(mask_input=np.zeros((16, 16), bool)), "mask_input is a binary mask"),
        (dict(mask_input=np.eye(16)), "binary mask .float64, values up to 1.; expected logits"),
        (dict(mask_input=np.eye(16, dtype=np.uint8) * 255), "values up to 255"),
        (dict(mask_input=np.ones((30, 47), bool)), "shape .*as_mask_input"),
        (dict(box=[3, [3], 10, 8]), "box is ragged"),
        (dict(mask_input=[[1.0, 2.0], [3.0]]), "mask_input is ragged"),
    ],
)
def test_an_invalid_prompt_is_an_error(predictor, prompt, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(**prompt)


def test_a_batch_needs_the_same_number_of_each_kind(predictor):
    with pytest.raises(
        ValueError,
        match="2 point_coords, 2 point_labels, 3 boxes: expected the same number of each",
    ):
        predictor.predict_batch([[[1, 2]], [[3, 4]]], [[1], [1]], BOXES)


def test_cpus_get_chunked_attention_and_groups_of_prompts(predictor):
    """With 256 x 256 x 32 upscaled values per prompt, two prompts are decoded at once."""
    published = jitted.tune_for_device(build_sam("sam_vit_b"))
    assert (published.attention, published.prompts_at_once) == ("chunked", 2)
    explicit = build_sam("sam_vit_b", attention="cudnn", prompts_at_once=5)
    assert jitted.tune_for_device(explicit) == explicit and predictor.model == MODEL
