"""Loading segment-anything's .pth and transformers' .safetensors, of any size and canvas."""

import hashlib

import jax
import numpy as np
import pytest

import segjax
from segjax.models.build import variable_shapes
from segjax.models.sam.build import build_sam
from segjax.tasks import make_task
from segjax.tasks.promptable.config import promptable_config
from segjax.training import program
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.registry import PUBLISHED, PublishedFile
from segjax.weights.safetensors import save_variables, write_arrays
from segjax.weights.tables.sam import SAM
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError, flatten


def drawn(**options):
    """Returns variables with position tables that are not zero."""
    model = build_sam("sam_debug", **options)
    rng = np.random.default_rng(1)
    shapes = variable_shapes(model)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def assert_same(found, want):
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "debug.pth"
    write_torch(path, SAM.to_published(drawn(), OFFICIAL))
    return path


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory):
    path = tmp_path_factory.mktemp("huggingface") / "model.safetensors"
    state = SAM.to_published(drawn(), HUGGINGFACE)
    del state[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]  # as transformers itself writes it
    write_arrays(path, state, {"format": "pt"})
    return path


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["official", "huggingface"])
def test_either_family_loads_by_name_and_by_itself(kind, named, request):
    path = request.getfixturevalue(kind)
    model, variables = segjax.load("sam_debug", path) if named else segjax.load(path)
    assert model == build_sam("sam_debug")
    assert_same(variables, drawn())
    assert all(
        isinstance(leaf, jax.Array) and leaf.dtype == np.float32
        for leaf in jax.tree.leaves(variables)
    )


def test_a_loaded_model_does_not_change_when_its_file_does(tmp_path, official):
    path = tmp_path / "copy.pth"
    path.write_bytes(official.read_bytes())
    _, variables = segjax.load(path)
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_same(variables, drawn())


def test_a_wrapped_and_prefixed_half_precision_file_loads(tmp_path):
    state = {
        f"module.{key}": array.astype(np.float16)
        for key, array in SAM.to_published(drawn(), OFFICIAL).items()
    }
    write_torch(tmp_path / "tuned.pth", state)
    assert_same(
        segjax.load(tmp_path / "tuned.pth")[1],
        jax.tree.map(lambda x: x.astype("f2").astype("f4"), drawn()),
    )


def test_another_size_is_an_error_that_names_the_one_it_is(official):
    with pytest.raises(CheckpointError) as error:
        segjax.load("sam_tiny", official)
    said = str(error.value)
    assert "debug.pth (segment-anything) is of another architecture" in said
    assert "28 missing: " in said and " misshapen: " in said
    assert "image_encoder.neck.1.weight is (32,), expected (64,), ..." in said
    assert said.endswith("its encoder of width 32 and depth 2 is that of sam_debug")


def test_a_file_of_transformers_under_the_official_name_is_read_as_what_it_is(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    write_torch(path, SAM.to_published(drawn(), HUGGINGFACE))
    assert_same(segjax.load("sam_debug", path)[1], drawn())
    with pytest.raises(
        CheckpointError,
        match=r"ec64.pth \(transformers' SamModel\) is of another.*that of sam_debug",
    ):
        segjax.load("sam_vit_b", path)


@pytest.mark.parametrize("format", [OFFICIAL, HUGGINGFACE])
def test_one_array_of_another_shape_is_named_in_the_words_of_the_file(tmp_path, format):
    state = SAM.to_published(drawn(), format)
    name = next(key for key in state if key.endswith("iou_token.weight"))
    write_torch(tmp_path / "odd.pth", state | {name: state[name].T})
    with pytest.raises(
        CheckpointError, match=rf": 1 misshapen: {name} is \(32, 1\), expected \(1, 32\)"
    ):
        segjax.load(tmp_path / "odd.pth")


def test_a_truncated_file_is_named_with_its_size(tmp_path, official, huggingface):
    for whole in (official, huggingface):
        cut = tmp_path / whole.name
        cut.write_bytes(whole.read_bytes()[:-2000])
        with pytest.raises(
            CheckpointError, match=rf"{whole.name} \({cut.stat().st_size} bytes\) is .*damaged"
        ):
            segjax.load(cut)


def test_what_is_no_sam_is_said(tmp_path):
    write_torch(tmp_path / "resnet.pth", {"layer1.weight": np.ones(2, np.float32)})
    with pytest.raises(
        CheckpointError,
        match="holds no SAM of segment-anything.*its 1 arrays are named layer1.weight",
    ):
        segjax.load("sam_debug", tmp_path / "resnet.pth")
    state = SAM.to_published(drawn(), OFFICIAL)
    write_torch(
        tmp_path / "hq.pth", state | {"mask_decoder.hf_token.weight": np.ones((1, 32), np.float32)}
    )
    with pytest.raises(
        CheckpointError, match="1 unexpected: mask_decoder.hf_token.weight.*those of HQ-SAM"
    ):
        segjax.load(tmp_path / "hq.pth")
    write_torch(
        tmp_path / "sam2.pth", {"image_encoder.trunk.pos_embed": np.ones((1, 2), np.float32)}
    )
    with pytest.raises(
        CheckpointError, match="sam2.pth holds no SAM that segjax has; its names are those of SAM 2"
    ):
        segjax.load(tmp_path / "sam2.pth")
    write_torch(tmp_path / "odd.pth", {k: a for k, a in state.items() if "blocks.1" not in k})
    with pytest.raises(
        CheckpointError, match="does not say which model.*width 32 and depth 1 is that of no size"
    ):
        segjax.load(tmp_path / "odd.pth")


@pytest.mark.parametrize("kind", ["official", "ours"])
def test_on_another_canvas_the_stored_tables_answer_as_the_encoder_would(kind, official, tmp_path):
    path = official
    if kind == "ours":
        path = tmp_path / "ours.safetensors"
        segjax.save_variables(path, drawn(), {"model": {"name": "sam_debug"}})
    before, old = segjax.load(path)
    after, new = segjax.load(path, canvas=96)
    assert after == build_sam("sam_debug", canvas=96)
    tables = {p: leaf.shape for p, leaf in flatten(new).items() if "pos" in p.split("/")[-1]}
    encoder = "params/image_encoder/"
    assert tables[encoder + "pos_embed"] == (1, 6, 6, 32)
    assert tables[encoder + "trunk/block_1/rel_pos_h"] == (11, 16), "a global block"
    assert tables[encoder + "trunk/block_0/rel_pos_h"] == (5, 16), "a window of 3"
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    answer = lambda model, variables: jax.jit(
        lambda v: model.apply(v, image, method="encode_image")
    )(variables)
    want, found = np.asarray(answer(before, old)), answer(after, new)
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_a_file_for_another_canvas_says_so_itself(tmp_path):
    write_torch(tmp_path / "large.pth", SAM.to_published(drawn(canvas=96), OFFICIAL))
    model, variables = segjax.load("sam_debug", tmp_path / "large.pth")
    assert model.canvas == 96
    assert_same(variables, drawn(canvas=96))
    assert segjax.load(tmp_path / "large.pth", canvas=64)[0].canvas == 64


def test_a_published_name_alone_takes_the_file_from_the_cache(tmp_path, monkeypatch, official):
    data = official.read_bytes()
    published = PublishedFile(
        "http://127.0.0.1:9/debug.pth", len(data), hashlib.sha256(data).hexdigest(), "none"
    )
    monkeypatch.setitem(PUBLISHED, "sam_debug", published)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        ConnectionError, match=rf"put it at {tmp_path}/segjax/weights/debug.pth, or name"
    ):
        segjax.load("sam_debug")
    folder = tmp_path / "segjax" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "debug.pth").write_bytes(data)
    model, variables = segjax.load("sam_debug", canvas=96)
    assert model.canvas == 96
    assert_same(segjax.load("sam_debug")[1], drawn())
    assert_same(segjax.load("SAM_Debug")[1], drawn())
    # A run starts from it by the same name.
    config = promptable_config()
    config.model.name, config.init_from = "sam_debug", "sam_debug"
    expected = variable_shapes(build_sam("sam_debug"))
    loaded = program._load_given(make_task(config), config.init_from, expected, None)
    assert_same(loaded, drawn())


def test_weights_recommend_thresholds_for_everything(capsys):
    from segjax.cli.inference.everything import choose_thresholds

    assert choose_thresholds(None, None, {}) == (0.88, 0.95)
    assert capsys.readouterr().out == ""
    config = {"everything": {"pred_iou": 0.5, "stability": "high"}}
    assert choose_thresholds(None, None, config) == (0.5, 0.95)
    assert "recommend --pred-iou 0.5 instead of 0.88" in capsys.readouterr().out
    assert choose_thresholds(0.7, 0.1, config) == (0.7, 0.1)


def test_our_own_files_say_what_they_hold(tmp_path):
    save_variables(tmp_path / "own.safetensors", drawn(), {"model": {"name": "sam_debug"}})
    with pytest.raises(CheckpointError, match="; it says that it holds sam_debug$"):
        segjax.load("mae_debug", tmp_path / "own.safetensors")
