"""`segjax.segment`: every prompt gives its kind of result, and says which model is missing."""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.inference.perception import services
from segjax.inference.perception.labels import MaskLabels
from segjax.inference.perception.semantic import vote_classes
from segjax.models.build import build_model, init_model

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
BLOCK = np.zeros((60, 80), bool)
BLOCK[10:40, 20:60] = True


@pytest.fixture(scope="module")
def segmenter():
    def draw(name, **options):
        model = build_model(name, **options)
        return model, drawn_variables(model, init_model)

    return segjax.Segmenter(
        sam=segjax.SamPredictor(*draw("sam_debug")),
        clip=segjax.Clip(*draw("clip_debug")),
        detector=segjax.Detector(*draw("maskrcnn_debug"), score_threshold=0.0),
        encoder=draw("mae_debug"),
    )


@pytest.mark.parametrize(
    "prompt, kind",
    [
        (segjax.Points([[30, 20]]), "interactive"),
        (segjax.Points([[30, 20], [5, 5]], [1, 0], [10, 5, 70, 50]), "interactive"),
        (segjax.Box([10, 5, 70, 50]), "interactive"),
        (segjax.MaskHint(BLOCK), "interactive"),
        (segjax.Example(IMAGE[::-1], BLOCK[::-1]), "interactive"),
        (segjax.Everything("tokencut"), "emergent"),
        (segjax.Everything("attention", {"size": 96}), "emergent"),
        (segjax.Nothing(), "instance"),
        (segjax.Nothing(refine=True), "instance"),
    ],
)
def test_prompts_and_kinds(segmenter, prompt, kind):
    segments = segmenter(IMAGE, prompt)
    assert segments.kind == kind and segments.masks.shape == (len(segments), 60, 80)
    assert segments.masks.dtype == bool and len(segments.scores) == len(segments.labels)
    if kind == "interactive":
        assert len(segments) == 1 and segments.mask_names == [None]
    if kind == "instance":
        assert set(segments.mask_names) <= set(segments.names)


@pytest.fixture
def planted(monkeypatch):
    """Masks of everything whose classes are known: the first is class 0, the second the last."""
    sky = np.zeros((60, 80), bool)
    sky[:8] = True
    masks = [BLOCK, sky]

    def label(labeler, image, masks, boxes=None):
        del image, boxes
        rows = np.full((len(masks), len(labeler.names)), 0.1 / max(len(labeler.names) - 1, 1))
        rows[[0, 1], [0, len(labeler.names) - 1]] = 0.9
        return MaskLabels([], rows.max(1), rows)

    monkeypatch.setattr(services, "_propose", lambda *_: (masks, [0.8, 0.6]))
    monkeypatch.setattr(services.MaskLabeler, "label", label)
    return masks


def test_semantic_masks_cover_the_image(segmenter, planted):
    segments = segmenter(IMAGE, segjax.Classes("star, cross"))
    assert segments.kind == "semantic" and segments.mask_names == ["star", "cross"]
    np.testing.assert_array_equal(segments.masks.sum(0), 1)
    assert segments.masks[0][BLOCK].all() and segments.masks[1][:8].all()
    np.testing.assert_allclose(segments.scores, 0.9, atol=1e-6)


def test_instances_are_named(segmenter, planted):
    segments = segmenter(IMAGE, segjax.Classes(["star", "cross"], instances=True))
    assert segments.kind == "instance" and segments.mask_names == ["star", "cross"]
    np.testing.assert_array_equal(segments.masks, planted)
    least = segjax.Classes(["star", "cross"], instances=True, min_score=0.95)
    assert len(segmenter(IMAGE, least)) == 0


def test_panoptic_segments_do_not_overlap(segmenter, planted):
    segments = segmenter(IMAGE, segjax.Classes("star", "cross"))
    assert segments.kind == "panoptic" and segments.mask_names == ["star", "cross"]
    assert segments.things.tolist() == [True, False] and segments.masks.sum(0).max() == 1
    np.testing.assert_array_equal(segments.masks[0], BLOCK)
    assert segments.masks[1][:8].all() and not (segments.masks[1] & BLOCK).any()


def test_a_phrase_chooses_the_mask_that_is_most_like_it(segmenter, planted, monkeypatch):
    vectors = np.eye(16, dtype=np.float32)
    monkeypatch.setattr(services.MaskLabeler, "encode", lambda *_: vectors[:2])
    monkeypatch.setattr(segjax.Clip, "class_vectors", lambda *_, **__: vectors[[1, 0]])
    segments = segmenter(IMAGE, segjax.Text(["cross", "star"]))
    assert segments.kind == "referring" and segments.mask_names == ["cross", "star"]
    np.testing.assert_array_equal(segments.masks, planted[::-1])
    assert (segments.scores > 0.8).all()


def test_without_any_mask_the_results_are_empty(segmenter, monkeypatch):
    monkeypatch.setattr(services, "_propose", lambda *_: ([], []))
    for prompt in (
        segjax.Classes("star"),
        segjax.Classes("star", instances=True),
        segjax.Classes("star", "cross"),
        segjax.Text("star"),
    ):
        segments = segmenter(IMAGE, prompt)
        assert len(segments) == 0 and segments.masks.shape == (0, 60, 80)


@pytest.mark.parametrize(
    "prompt, words",
    [
        (segjax.Classes("star"), "need a CLIP; give one as clip="),
        (segjax.Text("star"), "need a CLIP; give one as clip="),
        (segjax.Nothing(), "a detector says what to segment; give one as detector="),
        (segjax.Everything("attention"), "no class token"),
        (segjax.Everything("dino"), "choose one of tokencut"),
        (segjax.MaskHint(np.zeros((60, 80), bool)), "the mask is empty"),
        (segjax.MaskHint(BLOCK[:9]), r"the mask is \(9, 80\), the image \(60, 80\)"),
        (segjax.Example(IMAGE, np.zeros((60, 80), bool)), "the example's mask is empty"),
        (segjax.Example(IMAGE, BLOCK[:9]), r"the example's mask is \(9, 80\)"),
        ("the red star", "the prompt is a str; expected one of Points"),
    ],
)
def test_what_cannot_be_meant(segmenter, prompt, words):
    alone = segjax.Segmenter(sam=segmenter.sam)
    with pytest.raises(ValueError, match=words):
        alone(IMAGE, prompt)


def test_bad_classes_and_models():
    with pytest.raises(ValueError, match="'sky' is both a thing and stuff"):
        segjax.Classes("cup,sky", "sky")
    with pytest.raises(ValueError, match="leave out stuff"):
        segjax.Classes("cup", "sky", instances=True)
    with pytest.raises(ValueError, match="no class is named"):
        segjax.Classes("")
    with pytest.raises(ValueError, match="clip is a int; expected a name, a path or a Clip"):
        segjax.segment(IMAGE, segjax.Text("x"), clip=3)


def test_votes_and_nearest_masks():
    masks = [np.zeros((2, 6), bool) for _ in range(2)]
    masks[0][:, :2] = masks[1][:, 1:3] = True
    classes, share = vote_classes(
        masks, np.array([1.0, 0.5]), np.array([[1.0, 0], [0, 1.0]]), (2, 6)
    )
    np.testing.assert_array_equal(classes[0], [0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(share[0], [1, 2 / 3, 1, 0, 0, 0], atol=1e-6)
    classes, _ = vote_classes([], np.zeros(0), np.zeros((0, 2)), (2, 6))
    assert (classes == -1).all()
