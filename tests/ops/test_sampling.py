import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.matching import sample_balanced

KEY = jax.random.key(0)
sample = jax.jit(sample_balanced, static_argnums=(2, 3))


def labels(positive, negative, count=105):
    """Makes shuffled labels. Those neither positive nor negative are ignored."""
    values = np.repeat([1, 0, -1], [positive, negative, count - positive - negative])
    return np.random.default_rng(0).permutation(values)


@pytest.mark.parametrize(
    "positive, negative, expected",
    [
        (50, 50, (4, 12)),
        (2, 50, (2, 14)),
        (50, 3, (4, 3)),
        (0, 50, (0, 16)),
        (50, 0, (4, 0)),
        (0, 0, (0, 0)),
    ]
    + [(1, 2, (1, 2))],
)
def test_positives_up_to_their_share_and_negatives_for_the_rest(positive, negative, expected):
    label = labels(positive, negative)
    index, valid, is_positive = sample(KEY, label, 16, 0.25)
    assert index.shape == valid.shape == is_positive.shape == (16,) and index.dtype == jnp.int32
    drawn = np.asarray(index)[np.asarray(valid)]
    assert len(set(drawn)) == len(drawn) == sum(expected)
    np.testing.assert_array_equal(valid, np.arange(16) < sum(expected))
    np.testing.assert_array_equal(is_positive, np.arange(16) < expected[0])
    np.testing.assert_array_equal(label[drawn], np.repeat([1, 0], expected))
    assert not np.asarray(index)[~np.asarray(valid)].any()


def test_the_share_is_rounded_down():
    assert int(sample(KEY, labels(50, 50), 10, 0.25)[2].sum()) == 2


@pytest.mark.parametrize("count", [3, 40])
def test_few_anchors_or_none(count):
    index, valid, positive = sample(KEY, np.array([0, 1, -1, 0]), count, 0.5)
    assert int(valid.sum()) == 3 and int(positive.sum()) == 1 and index.shape == (count,)


def test_no_anchors():
    assert not sample(KEY, np.zeros(0, int), 3, 0.5)[1].any()


def test_every_anchor_is_as_likely_as_its_like():
    """Draws 3 of 12 positives and 5 of 20 negatives: each within 5 standard deviations of 1/4."""
    label = labels(12, 20, 40)
    draw = jax.jit(jax.vmap(lambda key: sample(key, label, 8, 0.375)))
    index, valid, _ = draw(jax.random.split(KEY, 4000))
    assert valid.all()
    often = np.bincount(np.asarray(index).ravel(), minlength=len(label)) / 4000
    np.testing.assert_allclose(often[label >= 0], 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))
    assert not often[label < 0].any()


def test_images_draw_on_their_own():
    label, keys = np.stack([labels(50, 50)] * 2), jax.random.split(KEY, 2)
    index, _, _ = jax.jit(jax.vmap(lambda key, label: sample(key, label, 16, 0.25)))(keys, label)
    assert (index[0] != index[1]).any()
    np.testing.assert_array_equal(index[1], sample(keys[1], label[1], 16, 0.25)[0])
