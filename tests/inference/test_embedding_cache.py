"""An image is encoded once for given weights, and damaged files are replaced."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_disk import full_disk
from golden.drawn_weights import drawn_variables

import segjax
from segjax.inference.sam import embedding_cache
from segjax.models.sam.build import build_sam, init_sam

MODEL = build_sam("sam_debug")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, drawn_variables(MODEL, init_sam))


@pytest.fixture
def encoded(monkeypatch):
    """Returns the list of images that are encoded, not read from the cache."""
    seen, resize = [], embedding_cache.resize_to_canvas
    monkeypatch.setattr(
        embedding_cache,
        "resize_to_canvas",
        lambda images, canvas: seen.extend(images) or resize(images, canvas),
    )
    return seen


def predict(variables, folder, image=IMAGE, model=MODEL):
    predictor = segjax.SamPredictor(model, variables, cache=folder)
    predictor.set_image(image)
    return predictor.predict(point_coords=[[20, 20]], point_labels=[1])


def test_a_second_session_reads_what_the_first_wrote(variables, encoded, tmp_path):
    first, second = predict(variables, tmp_path / "cache"), predict(variables, tmp_path / "cache")
    assert len(encoded) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, first, predict(variables, None))


def test_another_image_shape_weight_or_attribute_gives_another_file(variables, encoded, tmp_path):
    predict(variables, tmp_path)
    other = IMAGE.copy()
    other[3, 4, 1] ^= 1
    predict(variables, tmp_path, other)
    predict(variables, tmp_path, IMAGE.reshape(50, 40, 3))
    changed = jax.tree.map(lambda x: x, variables)
    changed["params"]["image_encoder"]["pos_embed"] = (
        changed["params"]["image_encoder"]["pos_embed"].at[0, 0, 0, 0].add(1)
    )
    predict(changed, tmp_path)
    predict(variables, tmp_path, model=build_sam("sam_debug", dtype="bfloat16"))
    assert len(encoded) == len(list(tmp_path.iterdir())) == 5
    predict(variables, tmp_path, model=build_sam("sam_debug", dtype="bfloat16"))
    assert len(encoded) == 5


def test_half_precision_weights_can_be_hashed_and_a_dtype_has_one_name(
    variables, encoded, tmp_path
):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    predict(half, tmp_path)
    predict(half, tmp_path, model=build_sam("sam_debug", dtype="float32"))
    assert len(encoded) == 1


def test_an_unwritable_folder_gives_a_warning(variables, encoded, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    expected = predict(variables, None)
    jax.tree.map(
        np.testing.assert_array_equal, predict(variables, tmp_path / "file" / "cache"), expected
    )
    assert "cannot write embedding" in caplog.text


def test_a_full_disk_gives_a_warning_and_leaves_no_file(variables, encoded, tmp_path, caplog):
    expected = predict(variables, None)
    with full_disk(1000):
        jax.tree.map(np.testing.assert_array_equal, predict(variables, tmp_path), expected)
    assert "cannot write embedding" in caplog.text and not any(tmp_path.iterdir())
    predict(variables, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_file_is_replaced(variables, encoded, tmp_path, caplog, damage):
    expected = predict(variables, tmp_path)
    (path,) = tmp_path.iterdir()
    if damage is None:
        np.save(path, np.zeros((2, 2)))
    else:
        path.write_bytes(damage)
    caplog.set_level(logging.WARNING, "segjax")
    jax.tree.map(np.testing.assert_array_equal, predict(variables, tmp_path), expected)
    assert "cannot read embedding" in caplog.text and len(encoded) == 2
    predict(variables, tmp_path)
    assert len(encoded) == 2
