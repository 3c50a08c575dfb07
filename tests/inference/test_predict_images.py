"""Predictions on several images at once equal those on each image alone, with few programs."""

import numpy as np
import pytest
from compilations import compilations
from written_run import debug_variables

from segjax.inference.sam import embedding_cache, jitted
from segjax.inference.sam.batching import choose_call_shape
from segjax.inference.sam.predictor import SamPredictor
from segjax.inference.sam.prompts import PROMPT_COUNTS
from segjax.models.sam.build import build_sam
from segjax.models.sam.prompt_encoder import NOT_A_POINT, Prompts

MODEL = build_sam("sam_debug")
RNG = np.random.default_rng(7)
SIZES = [(30, 47), (64, 20), (51, 51), (90, 124)]  # height, width
IMAGES = [RNG.integers(0, 256, (*hw, 3), np.uint8) for hw in SIZES]


@pytest.fixture(scope="module")
def predictor():
    return SamPredictor(MODEL, debug_variables())


def clicks(image, count, points):
    """Returns `count` prompts of several points: foreground, background and "not a point"."""
    height, width = image.shape[:2]
    labels = RNG.choice([1, 0, -1], (count, points), p=[0.6, 0.3, 0.1])
    return dict(
        point_coords=RNG.uniform(0, (width - 1, height - 1), (count, points, 2)),
        point_labels=labels,
    )


def boxes(image, count):
    height, width = image.shape[:2]
    corner = RNG.uniform(0, (width - 9, height - 9), (count, 2))
    return dict(boxes=np.concatenate([corner, corner + RNG.uniform(1, 20, (count, 2))], axis=1))


def masks(count):
    return dict(mask_input=RNG.normal(0, 9, (count, 1, 16, 16)))


def assert_predictions_match(predictions, wanted):
    for got, want in zip(predictions, wanted, strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.slow
def test_many_images_with_many_prompts_are_decoded_in_one_call_and_match_single_predictions(
    monkeypatch,
):
    images = [IMAGES[i % 4] // (1 + i // 4) for i in range(16)]
    prompts = [
        (clicks(image, 32, 3), boxes(image, 32))[number % 2] for number, image in enumerate(images)
    ]
    many = SamPredictor(MODEL, debug_variables(), prompts_per_batch=512)
    many.set_images(images)
    before, calls = jitted.decode_prompts._cache_size(), []
    decode = jitted.decode_prompts
    monkeypatch.setattr(
        "segjax.inference.sam.batching.decode_prompts",
        lambda *args: calls.append(args) or decode(*args),
    )
    predictions = many.predict_images(prompts, return_logits=True)
    assert len(calls) == 1 and jitted.decode_prompts._cache_size() == before + 1
    assert calls[0][3].points.shape == (32, 16, 4, 2), (
        "two rows of 16 prompts per image, 3 points in 4 slots"
    )
    monkeypatch.undo()
    for image, given, prediction in zip(images, prompts, predictions, strict=True):
        many.set_image(image)
        for number in range(32):
            one = {name.replace("boxes", "box"): value[number] for name, value in given.items()}
            assert_predictions_match(
                [part[number] for part in prediction], many.predict(**one, return_logits=True)
            )


def test_images_may_differ_in_number_points_and_kinds_of_prompt(predictor):
    prompts = [
        clicks(IMAGES[0], 3, 2),
        boxes(IMAGES[1], 4) | masks(4),
        clicks(IMAGES[2], 2, 4) | boxes(IMAGES[2], 2),
        dict(boxes=np.zeros((0, 4))),
        {},
        masks(2),
    ]
    images = [*IMAGES, *IMAGES[:2]]
    predictor.set_images(images)
    predictions = predictor.predict_images(prompts, multimask_output=False, return_logits=True)
    assert [prediction[0].shape[:2] for prediction in predictions] == [
        (3, 1),
        (4, 1),
        (2, 1),
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    assert [prediction[0].shape[2:] for prediction in predictions] == [
        image.shape[:2] for image in images
    ]
    for image, given, prediction in zip(images, prompts, predictions, strict=True):
        predictor.set_image(image)
        assert_predictions_match(
            prediction, predictor.predict_batch(**given, multimask_output=False, return_logits=True)
        )
    inside = predictor.predict_images([masks(2)])[0][0]
    assert inside.dtype == bool and inside.shape == (2, 3, 64, 20)


def test_other_counts_within_the_padding_and_other_image_sizes_do_not_recompile(predictor):
    """One program serves 3 or 4 images up to 128 pixels with 9 to 16 prompts of 2 to 4 points."""

    def predict(images, points):
        predictor.set_images(images)
        predictor.predict_images([clicks(image, RNG.integers(9, 17), points) for image in images])

    predict(IMAGES, 3)
    predict(IMAGES[:3], 3)
    decoders = jitted.decode_prompts._cache_size()
    with compilations() as seen:
        for number, points in ((3, 2), (4, 3), (3, 4), (4, 2), (3, 3)):
            predict(
                [
                    RNG.integers(0, 256, (*RNG.integers(20, 129, 2), 3), np.uint8)
                    for _ in range(number)
                ],
                points,
            )
    assert seen == [] and jitted.decode_prompts._cache_size() == decoders
    with compilations() as seen:
        predict(IMAGES[:1], 17)
    assert seen, "otherwise this test could not fail"


def test_more_points_than_slots_are_padded_to_the_next_multiple(predictor):
    predictor.set_image(IMAGES[2])
    before = jitted.decode_prompts._cache_size()
    for points in (65, 90, 128):
        given = clicks(IMAGES[2], 1, points)
        predictions = predictor.predict_batch(**given, return_logits=True)
        assert predictions[0].shape == (1, 3, 51, 51)
    assert jitted.decode_prompts._cache_size() == before + 1
    unpadded = dict(
        points=given["point_coords"][None] * 64 / 51, labels=given["point_labels"][None]
    )
    unpadded["labels"] = np.where(unpadded["labels"] == -1, NOT_A_POINT, unpadded["labels"])
    low_res, iou = jitted.decode_prompts(
        MODEL, predictor.variables, [predictor.features], Prompts(**unpadded)
    )
    assert_predictions_match(
        predictions[1:], (np.asarray(iou)[0, :, 1:], np.asarray(low_res)[0, :, 1:])
    )


def test_few_call_shapes_serve_any_number_of_prompts():
    shapes = set()
    for _ in range(5000):
        counts = RNG.integers(0, RNG.integers(2, 100), RNG.integers(1, 30))
        rows, width = choose_call_shape(counts, 64)
        assert rows * width <= 64 and width in PROMPT_COUNTS
        shapes.add((rows, width))
    assert shapes <= {
        (1, 1),
        (4, 1),
        (16, 1),
        (64, 1),
        (1, 4),
        (4, 4),
        (16, 4),
        (1, 16),
        (4, 16),
        (1, 64),
    }


@pytest.mark.parametrize(
    "counts, slots, shape",
    [
        ([1], 64, (1, 1)),
        ([5], 64, (1, 16)),
        ([20], 64, (1, 64)),
        ([200], 64, (1, 64)),
        ([32] * 16, 512, (32, 16)),  # no slot is empty
        ([1] * 16, 64, (16, 1)),
        ([1, 64], 64, (1, 64)),
        ([0], 64, (1, 1)),
        ([3, 3], 2, (2, 1)),
    ],
)
def test_the_call_shape_has_little_padding(counts, slots, shape):
    assert choose_call_shape(counts, slots) == shape


def test_images_are_encoded_in_few_batch_sizes_without_padding(predictor, monkeypatch):
    shapes, encode = [], jitted.encode_canvases
    monkeypatch.setattr(
        jitted,
        "encode_canvases",
        lambda m, v, x, s: shapes.append(x.shape[0]) or encode(m, v, x, s),
    )
    predictor.set_images([*IMAGES, IMAGES[0]])
    assert shapes == [4, 1]
    predictor.set_images(np.stack([IMAGES[0]] * 8))
    assert shapes[2:] == [4, 4]
    predictor.set_images([*IMAGES, *IMAGES[:3]])
    assert shapes[4:] == [4, 2, 1]
    predictor.set_images(IMAGES[1:3])
    together = predictor.get_image_embedding()
    assert (
        together.shape == (2, 4, 4, 32)
        and predictor.features is None
        and predictor.original_size is None
    )
    for image, features in zip(IMAGES[1:3], together, strict=True):
        predictor.set_image(image[..., ::-1], "BGR")
        np.testing.assert_allclose(predictor.features[0], features, atol=1e-4)
    SamPredictor(MODEL, predictor.variables, images_per_batch=1).set_images(IMAGES[:2])
    assert shapes[-2:] == [1, 1]


def test_cached_images_are_not_encoded_again(tmp_path, monkeypatch):
    made = SamPredictor(MODEL, debug_variables(), cache=tmp_path)
    encoded, resize = [], embedding_cache.resize_to_canvas
    monkeypatch.setattr(
        embedding_cache,
        "resize_to_canvas",
        lambda images, canvas: encoded.extend(images) or resize(images, canvas),
    )
    made.set_images([IMAGES[1]])
    made.set_images(IMAGES[:3])
    assert [image.shape for image in encoded] == [IMAGES[1].shape, IMAGES[0].shape, IMAGES[2].shape]
    first = made.get_image_embedding()
    made.set_images(IMAGES[:3])
    assert len(encoded) == len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(made.get_image_embedding(), first)


@pytest.mark.parametrize(
    "prompts, message",
    [
        ([{}], "a list of 1; expected a list of 2 mappings, one for each image"),
        (dict(boxes=[[1, 2, 3, 4]]), "prompts is one mapping; expected a list of 2"),
        ([{}, [[1, 2, 3, 4]]], "image 1: prompts are list; expected a mapping"),
        (
            [{}, dict(box=[1, 2, 3, 4])],
            "image 1: unknown prompt box; expected point_coords, point_labels, boxes",
        ),
        (
            [{}, dict(boxes=[[1, 2, 3, 4], [5, 2, 3, 4]])],
            r"image 1: prompt 1: box \[5.0, 2.0, 3.0, 4.0\]: expected x1",
        ),
        (
            [dict(point_coords=[[[1, 2]], [[1, 2]], [[3, 30]]], point_labels=[[1], [0], [1]]), {}],
            r"image 0: prompt 2: point \(3, 30\) is outside the image of width 47 and height 30",
        ),
        (
            [{}, dict(point_coords=np.ones((3, 1, 2)), point_labels=[[1], [3], [1]])],
            "image 1: prompt 1: point label 3; expected 1",
        ),
        (
            [dict(mask_input=np.ones((2, 1, 16, 15))), {}],
            r"image 0: mask_input has shape \(2, 16, 15\); expected",
        ),
        (
            [dict(mask_input=[np.zeros((16, 16)), np.full((16, 16), np.inf)]), {}],
            "image 0: prompt 1: mask_input holds NaN or infinity",
        ),
        ([{}, dict(boxes=[])], r"image 1: box is empty \(shape \(0,\)\)"),
    ],
)
def test_an_invalid_prompt_is_named_with_its_image(predictor, prompts, message):
    predictor.set_images(IMAGES[:2])
    with pytest.raises(ValueError, match=message):
        predictor.predict_images(prompts)


def test_an_invalid_image_is_named_and_no_image_stays_set(predictor):
    for images, message in (
        ([IMAGES[0], IMAGES[1].astype(np.int64)], "image 1: pixels are int64"),
        (
            IMAGES[0],
            r"one array of shape \(30, 47, 3\); expected a list of images. For one image use set_",
        ),
        ([], "images is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.set_images(images)
    predictor.set_images(IMAGES)
    for predict in (predictor.predict, predictor.predict_batch):
        with pytest.raises(ValueError, match="4 images are set; predict with predict_images"):
            predict()
    predictor.reset_image()
    with pytest.raises(ValueError, match="no image is set"):
        predictor.predict_images([])
    with pytest.raises(ValueError, match="prompts_per_batch is 0"):
        SamPredictor(MODEL, debug_variables(), prompts_per_batch=0)
