"""`segjax.Clip`: images of any size, texts, and names of images."""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

import segjax
from segjax.images.opening import ImageError
from segjax.images.squares import make_square
from segjax.models.clip.family import build_clip, init_clip
from segjax.weights.safetensors import save_variables

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def clip():
    model = build_clip("clip_debug")
    return segjax.Clip(model, drawn_variables(model, init_clip), batch=2)


def test_batches_do_not_change_vectors(clip):
    images = [IMAGE, IMAGE[:, :30], IMAGE[5:, 3:]]
    vectors = clip.encode_image(images)
    assert vectors.shape == (3, 16) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    for image, vector in zip(images, vectors, strict=True):
        np.testing.assert_allclose(clip.encode_image(image), [vector], atol=1e-6)
    raw = clip.encode_image(images, normalize=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1)[:, None], vectors, atol=1e-6)
    assert clip.encode_image([]).shape == (0, 16)


def test_texts_and_their_ids_are_the_same(clip):
    texts = ["a red star", "the large cross", "a star"]
    ids = clip.tokenize(texts)
    assert ids.shape == (3, 16) and ids.dtype == np.int32
    np.testing.assert_array_equal(clip.encode_text(texts), clip.encode_text(ids))
    assert clip.encode_text("a star").shape == (1, 16)


def test_class_vectors_are_the_normalized_mean_of_prompts(clip):
    prompts = clip.encode_text(["a red star", "the red star"])
    mean = prompts.mean(axis=0)
    vectors = clip.class_vectors(["red star"], templates=["a {}", "the {}"])
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_names_are_ordered_by_their_probability(clip):
    names, scores = clip.classify(IMAGE, "star,cross,arrow", templates="name")
    assert sorted(names) == ["arrow", "cross", "star"]
    assert scores[0] >= scores[1] >= scores[2] and np.isclose(scores.sum(), 1.0)
    cosines = clip.class_vectors(names, templates="name") @ clip.encode_image(IMAGE)[0]
    np.testing.assert_allclose(
        np.log(scores[0] / scores[2]), clip.scale * (cosines[0] - cosines[2]), rtol=1e-4
    )
    assert len(clip.classify(IMAGE, "star,cross,arrow", templates="name", top=2)[0]) == 2


def test_bad_input_is_told(clip):
    with pytest.raises(ValueError, match="'star' occurs twice"):
        clip.classify(IMAGE, ["star", "star"])
    with pytest.raises(ValueError, match="expected one of name, photo, seven"):
        clip.class_vectors("star", templates="best")
    with pytest.raises(ValueError, match=r"expected \[N, 16\]"):
        clip.encode_text(np.zeros((2, 77), np.int32))
    with pytest.raises(ValueError, match="expected 0 to 63"):
        clip.encode_text(np.full((1, 16), 64))
    with pytest.raises(ImageError, match="image 1"):
        clip.encode_image([IMAGE, np.zeros((4, 4, 2), np.uint8)])
    with pytest.raises(ValueError, match="'photo' is not a word"):
        clip.classify(IMAGE, "star")


def test_gray_and_transparent_images_are_read_as_everywhere(clip):
    gray = IMAGE[..., 0]
    np.testing.assert_allclose(
        clip.encode_image(gray), clip.encode_image(np.repeat(gray[..., None], 3, axis=2)), atol=1e-6
    )
    alpha = np.dstack([IMAGE, np.zeros(IMAGE.shape[:2], np.uint8)])
    np.testing.assert_allclose(clip.encode_image(alpha), clip.encode_image(IMAGE), atol=1e-6)


def test_squares_are_the_center_of_the_fitted_image():
    square = make_square(IMAGE, 20)
    fitted = Image.fromarray(IMAGE).resize((35, 20), Image.BICUBIC)
    np.testing.assert_array_equal(square, np.asarray(fitted)[:, 8:28])
    squashed = make_square(IMAGE, 20, resize="squash", interpolation="bilinear")
    wanted = Image.fromarray(IMAGE).resize((20, 20), Image.BILINEAR)
    np.testing.assert_array_equal(squashed, np.asarray(wanted))


def test_loading(clip, tmp_path):
    metadata = {"model": {"name": "clip_debug"}}
    save_variables(tmp_path / "clip.safetensors", clip.variables, metadata)
    loaded = segjax.Clip.load(tmp_path / "clip.safetensors", dtype="bfloat16")
    np.testing.assert_allclose(loaded.encode_image(IMAGE), clip.encode_image(IMAGE), atol=0.05)
    with pytest.raises(ValueError, match="sam_tiny_demo; this command takes a CLIP|holds sam_tiny"):
        segjax.Clip.load("sam_tiny_demo")
    broken = {"params": {"logit_scale": np.float32(np.nan)}}
    with pytest.raises(ValueError, match="every vector would be NaN"):
        segjax.Clip(clip.model, broken)
    with pytest.raises(ValueError, match="needs the model of a CLIP"):
        segjax.Clip(None, clip.variables)
