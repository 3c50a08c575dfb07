"""An image is encoded once for given weights, and damaged files are replaced."""

import os

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


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_another_entry(path):
    cache = embedding_cache
    content = cache.encode_entry("another.npy", np.load(path))
    path.write_bytes(content)


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "has changed"),
    "of an earlier version": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "bytes"),
    "of another shape": (
        lambda path: path.write_bytes(embedding_cache.encode_entry(path.name, np.zeros((2, 2)))),
        "bytes instead of",
    ),
    "of another image": (replace_by_another_entry, "has changed"),
    "a pipe": (replace_by_pipe, "is no regular file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_replaced(variables, encoded, tmp_path, caplog, damage):
    expected = predict(variables, tmp_path)
    (path,) = tmp_path.iterdir()
    break_file, message = DAMAGES[damage]
    break_file(path)
    jax.tree.map(np.testing.assert_array_equal, predict(variables, tmp_path), expected)
    (record,) = caplog.records
    assert "cannot read embedding" in record.getMessage() and message in record.getMessage()
    predict(variables, tmp_path)
    assert len(encoded) == 2


def test_a_folder_in_the_place_of_a_file_costs_the_time_to_encode(
    variables, encoded, tmp_path, caplog
):
    expected = predict(variables, tmp_path)
    (path,) = tmp_path.iterdir()
    replace_by_folder(path)
    jax.tree.map(np.testing.assert_array_equal, predict(variables, tmp_path), expected)
    assert "no regular file" in caplog.text and "cannot write embedding" in caplog.text


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_detected_and_reported_a_few_times(variables, tmp_path, caplog, count):
    cache = embedding_cache.EmbeddingCache(tmp_path, MODEL, variables)
    cache.embed([IMAGE])
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    rng = np.random.default_rng(count)
    header, checksum = range(8 * 128), range(8 * (len(content) - 4), 8 * len(content))
    bits = [*rng.choice(header, 8), *rng.choice(checksum, 8)]
    bits += rng.integers(8 * len(content), size=count - len(bits)).tolist()
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert cache._read(IMAGE) is None
    path.write_bytes(content)
    assert cache._read(IMAGE) is not None
    assert len(caplog.records) == len(str(count)), "the 1st, the 10th and the 100th"
