"""SAM's text prompts: the token, training on CLIP's vectors, evaluation with phrases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.data.synthetic.captions import CaptionedScenes
from segjax.evaluation.zero_shot.text_to_mask import TextScores
from segjax.inference.clip.regions import cover_grid, cover_patches, encode_crops, encode_masks
from segjax.masks import decode_mask
from segjax.models.build import init_model, variable_shapes
from segjax.models.clip.family import build_clip, init_clip
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.tasks.init_from import load_sam_without_text
from segjax.tasks.promptable.config import miniature, promptable_config
from segjax.tasks.promptable.task import Promptable
from segjax.tasks.promptable.text_evaluation import choose_phrases, shuffle_phrases
from segjax.tasks.promptable.text_vectors import VectorStore
from segjax.text.words import find_kind
from segjax.training.sharding import make_mesh
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.safetensors import save_variables
from segjax.weights.tree import CheckpointError, flatten

WIDTH = 16  # of clip_debug's vectors
SAM = build_sam("sam_debug", text_width=WIDTH)
SCENE = CaptionedScenes("train", 4, size=64)[1]


@pytest.fixture(scope="module")
def clip():
    model = build_clip("clip_debug")
    return segjax.Clip(model, drawn_variables(model, init_clip), batch=8)


@pytest.fixture(scope="module")
def clip_file(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_variables(path, clip.variables, {"model": {"name": "clip_debug"}})
    return path


@pytest.fixture(scope="module")
def sam():
    return drawn_variables(SAM, init_sam)


def make_config(clip_file, **options):
    config = miniature(promptable_config())
    config.model.update(text_width=WIDTH)
    config.data.scenes.update(kind="captions", eval_count=3)
    config.data.text.update(clip=str(clip_file), min_side=4.0, **options)
    return config


def test_text_prompts_add_a_linear_map_and_an_embedding():
    plain = flatten(variable_shapes(build_sam("sam_debug")))
    added = {k: v.shape for k, v in flatten(variable_shapes(SAM)).items() if k not in plain}
    width = SAM.prompt_width
    assert added == {
        "params/prompt_encoder/text_kind": (width,),
        "params/prompt_encoder/text_proj/kernel": (WIDTH, width),
        "params/prompt_encoder/text_proj/bias": (width,),
    }


def test_a_text_is_one_token_and_a_prompt_without_it_is_as_before(sam):
    plain = build_sam("sam_debug")
    embedding = jnp.ones((1, 4, 4, SAM.prompt_width)) * 0.1
    points = Prompts(points=jnp.full((1, 2, 1, 2), 20.0), labels=jnp.ones((1, 2, 1), jnp.int32))
    decode = jax.jit(lambda v, p: SAM.apply(v, embedding, p, method="decode"))
    params = sam["params"]["prompt_encoder"]
    encoder = {k: v for k, v in params.items() if not k.startswith("text_")}
    without = {**sam, "params": {**sam["params"], "prompt_encoder": encoder}}
    wanted = jax.jit(lambda v, p: plain.apply(v, embedding, p, method="decode"))(without, points)
    texts = np.random.default_rng(0).standard_normal((1, 2, WIDTH)).astype(np.float32)
    mixed = points.replace(texts=texts, has_text=jnp.array([[False, True]]))
    logits, _ = decode(sam, mixed)
    np.testing.assert_allclose(logits[:, 0], wanted[0][:, 0], atol=1e-4)
    assert np.abs(logits[:, 1] - wanted[0][:, 1]).max() > 1e-2
    # The token is the map of the vector, and depends on nothing else
    tokens, valid, _ = SAM.apply(
        sam, mixed, (64, 64), (4, 4), method=lambda m, *xs: m.prompt_encoder(*xs)
    )
    proj = params["text_proj"]
    token = texts[0, 1] @ proj["kernel"] + proj["bias"] + params["text_kind"]
    np.testing.assert_allclose(tokens[0, 1, 2], token, atol=1e-4)
    assert valid[0].tolist() == [[True, True, False], [True, True, True]]


def test_models_without_text_refuse_it(sam):
    embedding = jnp.zeros((1, 4, 4, SAM.prompt_width))
    plain = build_sam("sam_debug")
    texts = Prompts(texts=jnp.ones((1, 1, WIDTH)))
    with pytest.raises(ValueError, match="text_width is 0"):
        plain.apply(drawn_variables(plain, init_sam), embedding, texts, method="decode")
    with pytest.raises(ValueError, match="have 3 channels; this SAM takes those of a CLIP with 16"):
        SAM.apply(sam, embedding, Prompts(texts=jnp.ones((1, 1, 3))), method="decode")


def test_masked_attention_of_a_crop_covers_the_mask():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[5, 6] = True
    np.testing.assert_array_equal(cover_patches(mask, 4), [[True, False], [False, True]])
    np.testing.assert_array_equal(cover_grid(mask, (2, 4)), [[1, 0, 0, 0], [0, 0, 0, 1]])


def test_vectors_of_objects_have_length_one_and_hidden_surroundings_do_not_matter(clip):
    objects = SCENE["objects"]
    masks = [decode_mask(rle, 64, 64) for rle in objects["rle"]]
    other = SCENE["image"].copy()
    other[~masks[0]] = 255 - other[~masks[0]]
    encode = lambda image, **options: encode_crops(
        clip, image, objects["box"][:1], masks[:1], **options
    )
    for attention in (False, True):
        hidden = [encode(image, masked_attention=attention) for image in (SCENE["image"], other)]
        np.testing.assert_allclose(*hidden, atol=1e-5)
        shown = [
            encode(image, hide=False, masked_attention=attention)
            for image in (SCENE["image"], other)
        ]
        assert np.abs(shown[0] - shown[1]).max() > 1e-3
        np.testing.assert_allclose(np.linalg.norm(shown[0], axis=1), 1.0, atol=1e-5)
    assert encode_crops(clip, SCENE["image"], np.zeros((0, 4)), []).shape == (0, WIDTH)


def test_all_masks_of_an_image_take_one_pass(clip):
    masks = [np.ones((64, 64), bool), decode_mask(SCENE["objects"]["rle"][0], 64, 64)]
    together = encode_masks(clip, SCENE["image"], masks, count=2)
    for mask, vector in zip(masks, together, strict=True):
        np.testing.assert_allclose(encode_masks(clip, SCENE["image"], [mask]), [vector], atol=1e-5)
    assert encode_masks(clip, SCENE["image"], []).shape == (0, WIDTH)


def test_training_reads_vectors_and_runs_a_step(clip_file, tmp_path):
    task = Promptable(make_config(clip_file, crops=2))
    variables = init_model(task.model, jax.random.key(0))
    with pytest.raises(ValueError, match="prepare_training"):
        task.build_split_example("train")
    task.prepare_training(variables, trained=(), workdir=tmp_path)
    store = VectorStore(tmp_path / "vectors")
    batch = next(task.batches("train", batch_size=2))
    shapes = task.batch_shapes(2)
    assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {
        k: (v.shape, v.dtype) for k, v in batch.items() if k in shapes
    }
    # Each vector is one of an object of the data
    known = np.concatenate([store[image_id] for image_id in store._rows]).reshape(-1, WIDTH)
    for text in batch["texts"][batch["has_text"]]:
        assert np.abs(known.astype(np.float32) - text).sum(axis=1).min() < 1e-6
    batch = {k: v for k, v in batch.items() if k != "index"}
    loss = jax.jit(lambda v: task.loss(v, batch, jax.random.key(1), True)[0])
    gradient = jax.jit(jax.grad(loss))(variables)["params"]["prompt_encoder"]
    assert np.abs(gradient["text_proj"]["kernel"]).max() > 0
    # A second preparation reads the files
    changed = (tmp_path / "vectors" / "vectors.npy").stat().st_mtime_ns
    task.prepare_training(variables, trained=(), workdir=tmp_path)
    assert (tmp_path / "vectors" / "vectors.npy").stat().st_mtime_ns == changed
    # Another setting computes them again
    other = Promptable(make_config(clip_file, crops=1))
    other.prepare_training(variables, trained=(), workdir=tmp_path)
    assert VectorStore(tmp_path / "vectors").description["crops"] == 1


def test_training_may_take_vectors_of_phrases(clip, clip_file, tmp_path):
    task = Promptable(make_config(clip_file, crops=1, phrases=1.0))
    task.prepare_training(init_model(task.model, jax.random.key(0)), trained=(), workdir=tmp_path)
    batch = next(task.batches("train", batch_size=2))
    scenes = CaptionedScenes("train", 4, size=64)
    texts = {
        line for i in range(4) for t in scenes[i]["objects"]["phrases"] for line in t.split("\n")
    }
    known = clip.encode_text(sorted(texts - {""})).astype(np.float16).astype(np.float32)
    for text in batch["texts"][batch["has_text"]]:
        assert np.abs(known - text).sum(axis=1).min() < 1e-3


def test_noise_and_dropped_components_keep_the_length(clip_file, tmp_path):
    found = []
    for options in ({}, {"noise": 0.5}, {"drop": 1.0}):
        task = Promptable(make_config(clip_file, crops=1, **options))
        variables = init_model(task.model, jax.random.key(0))
        task.prepare_training(variables, trained=(), workdir=tmp_path)
        batch = next(task.batches("train", batch_size=2))
        found.append(batch["texts"][batch["has_text"]])
    for changed in found[1:]:
        assert 0.02 < np.abs(found[0] - changed).mean() < 0.5
        np.testing.assert_allclose(np.linalg.norm(changed, axis=1), 1.0, atol=1e-5)
    # The components are orthonormal
    mean, basis = VectorStore(tmp_path / "vectors").components
    np.testing.assert_allclose(basis @ basis.T, np.eye(WIDTH), atol=1e-4)
    assert mean.shape == (WIDTH,)


def test_the_first_prompt_of_a_session_is_the_text(clip_file, tmp_path):
    task = Promptable(make_config(clip_file))
    batch = task.build_example(train=False).placeholder()
    batch = {name: np.repeat(np.asarray(row)[None], 2, 0) for name, row in batch.items()}
    batch["masks"][:, :, 10:30, 10:30] = 1
    batch |= {"texts": np.ones((2, 2, WIDTH), np.float32), "has_text": np.array([[1, 0]] * 2) > 0}
    session = task.make_simulator(batch).sample_first_prompt(jax.random.key(0), (16, 16))
    assert session.has_text.tolist() == [[True, False]] * 2
    assert (session.labels[:, 0] == -1).all() and not session.has_box[:, 0].any()
    other = session.has_box[:, 1] | (session.labels[:, 1, 0] == 1)
    assert other.all()


def test_evaluation_reports_phrases_by_kind(clip_file):
    task = Promptable(make_config(clip_file))
    metrics, _ = task.evaluate(drawn_variables(task.model, init_sam), mesh=make_mesh())
    for name in ("text", "image", "shuffled"):
        assert 0 <= metrics[f"{name}_miou"] <= 1 and 0 <= metrics[f"{name}_oiou"] <= 1
        assert metrics[f"{name}_p@0.9"] <= metrics[f"{name}_p@0.5"]
    assert {"text_miou/color", "text_miou/shape", "text_miou/relation"} <= metrics.keys()
    assert metrics["text_phrases"] > 10


def test_settings_that_do_not_fit_are_told(clip_file):
    config = make_config(clip_file)
    config.model.text_width = 0
    with pytest.raises(ValueError, match=r"text\.clip is .*text_width 0; text prompts need both"):
        Promptable(config)
    config = make_config(clip_file)
    config.model.text_width = 8
    with pytest.raises(ValueError, match=r"vectors of 16 channels.*text_width is 8; set it to 16"):
        Promptable(config).text.load_clip()


def test_phrases_are_chosen_by_kind_and_shuffled_within_it():
    scenes = CaptionedScenes("heldout", 3, size=64)
    items = [item for row in range(3) for item in choose_phrases(row, scenes[row])]
    assert items == [item for row in range(3) for item in choose_phrases(row, scenes[row])]
    for _, index, kind, phrase in choose_phrases(0, scenes[0]):
        assert find_kind(phrase) == kind
        assert phrase in scenes[0]["objects"]["phrases"][index].split("\n")
    for item, other in zip(items, shuffle_phrases(items), strict=True):
        assert find_kind(other) == item[2]


def test_text_scores_by_hand():
    scores, truth = TextScores(), np.zeros((4, 4), bool)
    truth[:2] = True
    scores.add("color", truth, truth)
    scores.add("shape", np.zeros_like(truth), truth)  # nothing found
    half = truth.copy()
    half[1] = False
    scores.add("shape", half, truth)
    found = scores.summarize("text", ("color", "shape", "size"))
    assert found["text_miou"] == pytest.approx(0.5) and found["text_oiou"] == pytest.approx(12 / 24)
    assert found["text_p@0.5"] == pytest.approx(1 / 3)  # above, not at the threshold
    assert found["text_miou/shape"] == pytest.approx(0.25) and "text_miou/size" not in found
    assert TextScores().summarize("text") == {}


def test_predictor_takes_phrases_and_vectors(clip, sam):
    predictor = segjax.SamPredictor(SAM, sam, clip=clip)
    predictor.set_image(SCENE["image"])
    one = predictor.predict(text="the red star")
    assert one[0].shape == (3, 64, 64)
    vector = clip.encode_text("the red star")[0]
    for text in (vector, 5 * vector):  # the length of a vector does not matter
        np.testing.assert_allclose(predictor.predict(text=text)[2], one[2], atol=1e-4)
    texts = ["the red star", "the cross"]
    several = predictor.predict_batch(texts=texts)
    np.testing.assert_allclose(several[2][0], one[2], atol=1e-3)
    (listed,) = predictor.predict_images([{"texts": texts}])
    np.testing.assert_allclose(listed[2], several[2], atol=1e-4)
    # Texts and points of the same objects go together
    mixed = predictor.predict(text="the red star", point_coords=[[5, 5]], point_labels=[1])
    assert np.abs(mixed[2] - one[2]).max() > 1e-3


def test_bad_texts_are_told(clip, sam):
    predictor = segjax.SamPredictor(SAM, sam)
    predictor.set_image(SCENE["image"])
    with pytest.raises(ValueError, match="need the CLIP"):
        predictor.predict(text="the red star")
    predictor.clip = clip
    for text, message in (
        ("", "a text is empty"),
        (np.zeros(WIDTH), "vector of a text is zero"),
        (np.ones(3), r"expected vectors \[P, 16\]"),
        ("the red tiger", "'tiger' is not a word"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict(text=text)
    with pytest.raises(ValueError, match="expected a list"):
        predictor.predict_batch(texts="the star")
    with pytest.raises(ValueError, match="expected the same number of each"):
        predictor.predict_batch(texts=["the star"], boxes=[[0, 0, 5, 5]] * 2)
    plain = build_sam("sam_debug")
    predictor = segjax.SamPredictor(plain, drawn_variables(plain, init_sam), clip=clip)
    predictor.set_image(SCENE["image"])
    with pytest.raises(ValueError, match="has no text prompts"):
        predictor.predict(text="the red star")


def test_a_sam_without_text_starts_one_with_it(tmp_path, sam):
    plain = build_sam("sam_debug")
    variables = drawn_variables(plain, init_sam)
    save_variables(tmp_path / "sam.safetensors", variables, {"model": {"name": "sam_debug"}})
    loaded = load_sam_without_text(str(tmp_path / "sam.safetensors"), SAM)
    assert flatten(loaded).keys() == flatten(variables).keys()
    # Other libraries' files have no place for text prompts
    with pytest.raises(CheckpointError, match="has no place for params/prompt_encoder/text_"):
        write_checkpoint(tmp_path / "sam.pth", sam, metadata={})
