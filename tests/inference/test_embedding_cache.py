"""A picture is encoded once for a set of weights, whatever happens to the files."""

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
PICTURE = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


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


def answers(variables, folder, picture=PICTURE, model=MODEL):
    predictor = segjax.SamPredictor(model, variables, cache=folder)
    predictor.set_image(picture)
    return predictor.predict(point_coords=[[20, 20]], point_labels=[1])


def test_a_second_session_reads_what_the_first_wrote(variables, encoded, tmp_path):
    first, second = answers(variables, tmp_path / "cache"), answers(variables, tmp_path / "cache")
    assert len(encoded) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, first, answers(variables, None))


def test_another_picture_shape_weight_or_attribute_is_another_file(variables, encoded, tmp_path):
    answers(variables, tmp_path)
    other = PICTURE.copy()
    other[3, 4, 1] ^= 1
    answers(variables, tmp_path, other)
    answers(variables, tmp_path, PICTURE.reshape(50, 40, 3))
    changed = jax.tree.map(lambda x: x, variables)
    changed["params"]["image_encoder"]["pos_embed"] = (
        changed["params"]["image_encoder"]["pos_embed"].at[0, 0, 0, 0].add(1)
    )
    answers(changed, tmp_path)
    answers(variables, tmp_path, model=build_sam("sam_debug", dtype="bfloat16"))
    assert len(encoded) == len(list(tmp_path.iterdir())) == 5
    answers(variables, tmp_path, model=build_sam("sam_debug", dtype="bfloat16"))
    assert len(encoded) == 5


def test_half_precision_weights_have_a_hash_and_a_dtype_has_one_name(variables, encoded, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    answers(half, tmp_path)
    answers(half, tmp_path, model=build_sam("sam_debug", dtype="float32"))
    assert len(encoded) == 1


def test_a_folder_that_cannot_be_written_is_a_warning(variables, encoded, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    expected = answers(variables, None)
    jax.tree.map(
        np.testing.assert_array_equal, answers(variables, tmp_path / "file" / "cache"), expected
    )
    assert "cannot write embedding" in caplog.text


def test_a_full_disk_is_a_warning_and_leaves_no_file(variables, encoded, tmp_path, caplog):
    expected = answers(variables, None)
    with full_disk(1000):
        jax.tree.map(np.testing.assert_array_equal, answers(variables, tmp_path), expected)
    assert "cannot write embedding" in caplog.text and not any(tmp_path.iterdir())
    answers(variables, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_file_is_made_anew(variables, encoded, tmp_path, caplog, damage):
    expected = answers(variables, tmp_path)
    (path,) = tmp_path.iterdir()
    if damage is None:
        np.save(path, np.zeros((2, 2)))
    else:
        path.write_bytes(damage)
    caplog.set_level(logging.WARNING, "segjax")
    jax.tree.map(np.testing.assert_array_equal, answers(variables, tmp_path), expected)
    assert "cannot read embedding" in caplog.text and len(encoded) == 2
    answers(variables, tmp_path)
    assert len(encoded) == 2
