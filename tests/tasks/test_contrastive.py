"""Contrastive training: the loss by hand, examples, retrieval, and a run that learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data.examples.captioned import CaptionedExample
from segjax.data.synthetic.captions import (
    CaptionedScenes,
    is_held_out,
    list_combinations,
    write_phrases,
)
from segjax.data.synthetic.scenes import Layer
from segjax.evaluation.retrieval import draw_sets, score_retrieval
from segjax.losses.contrastive import info_nce
from segjax.masks import decode_mask
from segjax.models.build import init_model
from segjax.tasks.contrastive.config import contrastive_config, miniature
from segjax.tasks.contrastive.task import Contrastive
from segjax.tasks.usable_objects import NoUsableObjectError
from segjax.text.words import COLORS, SHAPES, TEXTURES, WordTokenizer
from segjax.training.sharding import make_mesh

RNG = np.random.default_rng(0)


def make_layer(color, texture, shape, size, center):
    layer = Layer(np.ones((8, 8), bool), 64, shape, np.array(center, float), 3.0)
    layer.description = (color, texture, shape, size)
    return layer


def unit(*shape):
    x = RNG.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_loss_is_the_mean_of_two_cross_entropies():
    images, texts, scale = unit(4, 8), unit(4, 8), 7.0
    losses, correct = info_nce(images, texts, scale, jnp.ones(4))
    logits = scale * images @ texts.T
    for i in range(4):
        rows = [np.log(np.exp(logits[i]).sum()), np.log(np.exp(logits[:, i]).sum())]
        np.testing.assert_allclose(losses[i], np.mean(rows) - logits[i, i], rtol=1e-5)
        hits = [logits[i].argmax() == i, logits[:, i].argmax() == i]
        assert float(correct[i]) == np.mean(hits)


def test_pairs_without_weight_and_equal_texts_are_no_negatives():
    images, texts = unit(4, 8), unit(4, 8)
    losses, _ = info_nce(images, texts, 5.0, jnp.array([1.0, 1.0, 0.0, 1.0]))
    alone, _ = info_nce(images[[0, 1, 3]], texts[[0, 1, 3]], 5.0, jnp.ones(3))
    np.testing.assert_allclose(losses[jnp.array([0, 1, 3])], alone, rtol=1e-5)
    same = np.eye(4, dtype=bool)
    same[0, 1] = same[1, 0] = True
    losses, _ = info_nce(images, texts, 5.0, jnp.ones(4), same)
    logits = 5.0 * images @ texts.T
    rest = [0, 2, 3]
    rows = [np.log(np.exp(logits[0, rest]).sum()), np.log(np.exp(logits[rest, 0]).sum())]
    np.testing.assert_allclose(losses[0], np.mean(rows) - logits[0, 0], rtol=1e-5)


def test_the_loss_is_global_over_devices():
    """Sharded over 4 devices, every pair still has all others as negatives."""
    images, texts = unit(8, 8), unit(8, 8)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    place = lambda x: jax.device_put(x, rows)
    sharded = jax.jit(info_nce)(place(images), place(texts), 5.0, place(np.ones(8, np.float32)))
    whole = info_nce(images, texts, 5.0, jnp.ones(8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sharded, whole)


def test_combinations_are_held_out_and_every_word_is_seen():
    train, heldout = list_combinations("train"), list_combinations("heldout")
    assert not set(train) & set(heldout) and len(train) + len(heldout) == 8 * 4 * 6
    assert all(is_held_out(combination) for combination in heldout)
    for split in (train, heldout):
        for axis, words in enumerate((COLORS, TEXTURES, SHAPES)):
            assert {combination[axis] for combination in split} == set(range(len(words)))


def test_phrases_are_true_of_one_object_alone():
    layers = [
        make_layer(0, 0, 3, 1, (10, 20)),  # large red plain star
        make_layer(0, 1, 3, 0, (50, 20)),  # small red striped star
        make_layer(2, 1, 4, 0, (90, 20)),  # small blue striped cross
    ]
    first, second, third = (text.split("\n") for text in write_phrases(layers, 100))
    assert first[0] == "the red plain star" and "the large object" in first
    assert "the red star" not in first + second and "the striped star" in second
    assert "the blue object" in third and "the small object" not in second + third
    # Both stars are left of the cross, so the relation does not tell them apart
    assert not any("star left of" in phrase for phrase in first + second)
    assert "the cross right of the red star" not in third  # there are two red stars
    tokenizer = WordTokenizer()
    assert tokenizer(first + second + third, 16).max() == 63


def test_relations_name_another_object():
    layers = [make_layer(0, 0, 3, 1, (20, 50)), make_layer(2, 1, 4, 0, (80, 50))]
    first, second = (text.split("\n") for text in write_phrases(layers, 100))
    assert "the star left of the blue cross" in first
    assert "the cross right of the red star" in second
    assert not any("above" in phrase for phrase in first + second)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_scenes_have_phrases_of_their_own_objects(split):
    scenes = CaptionedScenes(split, 6, size=64)
    seen = 0
    for index in range(6):
        objects = scenes[index]["objects"]
        for text, category in zip(objects["phrases"], objects["category"], strict=True):
            for phrase in filter(None, text.split("\n")):
                named = [word for word in phrase.split() if word in SHAPES]
                assert not named or named[0] == SHAPES[category]
                seen += 1
    assert seen > 20


def test_examples_are_crops_with_a_phrase_each():
    record = CaptionedScenes("train", 4, size=64)[1]
    options = dict(longest=5, count=3, expand=(1.0, 1.0), color=(9, 8, 7))
    example = CaptionedExample(32, "captions", 16, train=True, hide=1.0, **options)
    made = example(record, np.random.default_rng(0))
    assert made["image"].shape == (3, 32, 32, 3) and made["ids"].shape == (3, 16)
    count = int(made["valid"].sum())
    assert count == min(3, len(record["objects"]["rle"])) and not made["ids"][count:].any()
    # Everything but the object has the color, at least in the corners of some crop
    assert (made["image"][:count, 0, 0] == (9, 8, 7)).all(-1).any()
    fixed = CaptionedExample(32, "captions", 16, train=False, hide=1.0, **options)
    one, other = (fixed(record, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(one["image"], other["image"])
    first = next(text for text in record["objects"]["phrases"] if text).split("\n")[0]
    assert WordTokenizer().decode(one["ids"][0]) == first


def test_objects_without_phrases_give_no_pair_and_training_stops():
    config = miniature(contrastive_config())
    config.data.scenes.kind = "shapes"
    task = Contrastive(config)
    with pytest.raises(NoUsableObjectError, match="kind='captions'"):
        batches = task.batches("train", batch_size=4)
        for _ in range(1000):
            next(batches)


def test_retrieval_counts_ranks_within_sets():
    sets = draw_sets(["a", "b", "a", "c", "b", "d"], 3)
    assert all(len(members) == 3 for members in sets) and len(sets) >= 1
    vectors = np.eye(4, dtype=np.float32)
    scores = score_retrieval(vectors, vectors[[0, 1, 3, 2]], [np.arange(4)])
    assert scores["image_to_text@1"] == scores["text_to_image@1"] == 0.5
    assert scores["image_to_text@5"] == 1.0
    assert np.isnan(score_retrieval(vectors, vectors, [])["image_to_text@1"])
    # Equal vectors choose nothing
    assert score_retrieval(vectors * 0, vectors, [np.arange(4)])["image_to_text@1"] == 0.0


def test_a_step_reduces_the_loss_and_evaluation_reports_retrieval():
    task = Contrastive(miniature(contrastive_config()))
    variables = init_model(task.model, jax.random.key(0))
    batch = next(task.batches("train", batch_size=4))

    @jax.jit
    def step(params):
        def loss(params):
            total, weight, _ = task.loss(
                variables | {"params": params}, batch, jax.random.key(0), True
            )
            return total / weight

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient)

    params, losses = variables["params"], []
    for _ in range(8):
        value, params = step(params)
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.2
    mesh = make_mesh()
    metrics, pictures = task.evaluate(variables | {"params": params}, mesh=mesh)
    assert 0 <= metrics["image_to_text@1"] <= 1 and pictures["retrieval"].ndim == 3


def test_too_few_captions_are_told():
    config = miniature(contrastive_config())
    config.eval.choices = 1000
    task = Contrastive(config)
    variables = init_model(task.model, jax.random.key(0))
    with pytest.raises(ValueError, match=r"too few for one set of 1000; set config\.eval\.choices"):
        task.evaluate(variables, mesh=make_mesh())


def test_a_hidden_crop_shows_the_object_alone():
    record = CaptionedScenes("train", 4, size=64)[0]
    from segjax.images.squares import crop_square

    mask = decode_mask(record["objects"]["rle"][0], 64, 64)
    box = record["objects"]["box"][0]
    crop = crop_square(record["image"], box, 48, expand=3.0, mask=mask, color=(0, 0, 0))
    assert crop.shape == (48, 48, 3) and (crop.reshape(-1, 3).sum(1) == 0).mean() > 0.5
