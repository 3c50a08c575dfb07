"""Names of masks and of pixels by CLIP."""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.inference.clip.regions import encode_crops, encode_masks
from segjax.inference.perception.dense import classify_pixels, sharpen_classes
from segjax.inference.perception.labels import MaskLabeler, label_records
from segjax.models.clip.family import build_clip, init_clip

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
BIG, SMALL = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
BIG[4:40, 8:50], SMALL[20:24, 30:34] = True, True
NAMES = ["star", "cross", "arrow"]


@pytest.fixture(scope="module")
def clip():
    model = build_clip("clip_debug")
    return segjax.Clip(model, drawn_variables(model, init_clip), batch=4)


def probabilities(clip, vectors):
    logits = clip.scale * vectors @ clip.class_vectors(NAMES, templates="name").T
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_methods_look_at_masks_in_their_own_way(clip):
    labeler = lambda method: MaskLabeler(clip, NAMES, templates="name", method=method)
    attention = labeler("attention").label(IMAGE, [BIG, SMALL])
    wanted = probabilities(clip, encode_masks(clip, IMAGE, [BIG, SMALL]))
    np.testing.assert_allclose(attention.probabilities, wanted, atol=1e-4)
    crops = labeler("crops").label(IMAGE, [BIG, SMALL])
    boxes = np.array([[8, 4, 50, 40], [30, 20, 34, 24]])
    both = [
        encode_crops(clip, IMAGE, boxes, [BIG, SMALL], expand=expand, hide=hide)
        for expand, hide in ((1.0, True), (1.2, False))
    ]
    mean = np.mean(both, axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(crops.probabilities, probabilities(clip, mean), atol=1e-4)
    # "auto": a grid of 4 x 4 cells is too coarse for attention
    auto = labeler("auto").label(IMAGE, [BIG, SMALL])
    np.testing.assert_allclose(auto.probabilities, crops.probabilities, atol=1e-5)
    assert auto.names[0] == NAMES[auto.probabilities[0].argmax()]


def test_small_masks_get_crops_on_a_fine_grid():
    model = build_clip("clip_debug", canvas=64)
    clip = segjax.Clip(model, drawn_variables(model, init_clip), batch=4)
    auto, attention, crops = (
        MaskLabeler(clip, NAMES, templates="name", method=method).label(IMAGE, [BIG, SMALL])
        for method in ("auto", "attention", "crops")
    )
    np.testing.assert_allclose(auto.probabilities[0], attention.probabilities[0], atol=1e-5)
    np.testing.assert_allclose(auto.probabilities[1], crops.probabilities[1], atol=1e-5)


def test_what_is_not_sure_gets_no_name(clip):
    labeler = MaskLabeler(clip, NAMES, templates="name", min_score=1.0)
    empty = np.zeros_like(BIG)
    labels = labeler.label(IMAGE, [BIG, empty])
    assert labels.names[1] is None and labels.scores[1] == 0
    assert labels.names[0] is None or labels.scores[0] == 1.0
    assert labeler.label(IMAGE, []).names == []


def test_records_get_names_and_keep_the_rest(clip):
    labeler = MaskLabeler(clip, "star,cross", templates="name")
    records = [{"segmentation": BIG, "area": 7, "predicted_iou": 0.5}]
    (row,) = label_records(labeler, IMAGE, records)
    assert row["area"] == 7 and row["predicted_iou"] == 0.5
    assert row["category_name"] == labeler.names[row["category_id"] - 1]
    assert 0.5 <= row["category_score"] <= 1
    assert "category_id" not in records[0]


def test_bad_input_is_told(clip):
    for options, message in (
        (dict(names="star,star"), "'star' occurs twice"),
        (dict(names=""), "expected names"),
        (dict(names="star", method="best"), "choose one of auto, attention, crops"),
        (dict(names="star", templates="best"), "expected one of name"),
        (dict(names="star", min_score=2.0), "min_score is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskLabeler(clip, **{"templates": "name"} | options)
    with pytest.raises(ValueError, match=r"mask 1 is \(4, 4\)"):
        MaskLabeler(clip, "star", templates="name").label(IMAGE, [BIG, np.ones((4, 4), bool)])


@pytest.mark.parametrize("method", ["maskclip", "sclip"])
def test_pixels_have_probabilities(clip, method):
    vectors = clip.class_vectors(NAMES, templates="name")
    found = classify_pixels(clip, IMAGE, vectors, method=method)
    assert found.shape == (48, 64, 3)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)
    # An image of one window: its patches' classes are those of the model itself
    image = IMAGE[:32, :32]
    dense = {"maskclip": "values", "sclip": "self_similarity"}[method]
    patches = clip.model.apply(clip.variables, image[None], dense, method="describe_patches")[0]
    patches = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
    cosines = np.asarray(patches @ vectors.T)
    alone = classify_pixels(clip, image, vectors, method=method, shorter_side=32)
    center = alone[4::8, 4::8].argmax(-1)  # near the middle of each patch
    agree = (center == cosines.argmax(-1)).mean()
    assert agree > 0.8
    with pytest.raises(ValueError, match="choose one of maskclip, sclip"):
        classify_pixels(clip, IMAGE, vectors, method="dense")
    with pytest.raises(ValueError, match="stride is 0"):
        classify_pixels(clip, IMAGE, vectors, stride=0)


def test_masks_sharpen_classes_by_votes_and_small_ones_lie_on_top():
    scores = np.zeros((4, 4, 3), np.float32)
    scores[..., 0] = 0.5
    scores[0, :3, 1] = scores[1, 0, 2] = 1.0
    large, small = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    large[:2], small[1, 0] = True, True
    classes = sharpen_classes(scores, [small, large, np.zeros((4, 4), bool)])
    assert classes[0, 0] == 0 and classes[1, 0] == 2  # 4 votes of 8 for class 0, 3 for class 1
    assert (classes[2:] == 0).all() and (classes[:2].sum() == 2)
