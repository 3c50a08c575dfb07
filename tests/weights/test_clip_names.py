"""Files of CLIP: OpenAI's archives, open_clip's and transformers' files, and their activation."""

import json
import zipfile

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.models.build import variable_shapes
from segjax.models.clip.family import build_clip, init_clip
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.registry import PublishedFile
from segjax.weights.safetensors import write_arrays
from segjax.weights.tables.clip import HUGGINGFACE_CLIP, OPENAI
from segjax.weights.torch_file import read_torch
from segjax.weights.torch_writer import _number, _numbers, _text, write_torch
from segjax.weights.tree import CheckpointError, flatten

MODEL = build_clip("clip_debug")


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(MODEL, init_clip)


@pytest.fixture(scope="module")
def state(variables):
    return OPENAI.to_published(variables, "official")


def write_script(path, state, kinds=("QuickGELU",), module="__torch__.clip.model"):
    """Writes an archive as `torch.jit.save` does: modules within modules, and code.

    Each entry of `kinds` becomes the class of a module without tensors.
    """
    tree = {}
    for number, (key, array) in enumerate(state.items()):
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = (number, array)
    for i, kind in enumerate(kinds):
        tree[f"gelu_{i}"] = kind

    def write_module(node, kind):
        rows = b"".join(_text(name) + write_value(value) for name, value in node.items())
        flag = _text("training") + b"\x89"
        name = f"c{module}.___torch_mangle_{len(node)}\n{kind}\n".encode()
        return name + b")\x81}(" + flag + rows + b"ub"

    def write_value(value):
        if isinstance(value, str):
            return write_module({}, value)
        if isinstance(value, dict):
            return write_module(value, "Module")
        number, array = value
        strides = np.cumprod((1, *array.shape[:0:-1]))[::-1][: array.ndim]
        storage = _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(number))
        storage += _text("cpu") + _number(array.size) + b"tQ"
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n(("
            + storage
            + _number(0)
            + _numbers(array.shape)
            + _numbers(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR"
        )

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + write_module(tree, "CLIP") + b".")
        archive.writestr("model/code/__torch__/clip/model.py", "import os; os.abort()")
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        for number, array in enumerate(state.values()):
            archive.writestr(f"model/data/{number}", array.astype("<f4").tobytes())


def assert_equal_trees(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def test_names_and_layouts_of_openai(state, variables):
    assert len(state) == 50
    params = variables["params"]
    np.testing.assert_array_equal(
        state["visual.conv1.weight"],
        np.transpose(params["image"]["encoder"]["patch_embed"]["kernel"], (3, 2, 0, 1)),
    )
    block = params["text"]["trunk"]["block_0"]
    name = "transformer.resblocks.0."
    np.testing.assert_array_equal(
        state[name + "attn.in_proj_weight"], np.transpose(block["qkv"]["kernel"])
    )
    np.testing.assert_array_equal(
        state[name + "mlp.c_fc.weight"], np.transpose(block["mlp"]["layer_0"]["kernel"])
    )
    # The projections are not transposed
    np.testing.assert_array_equal(state["text_projection"], params["text"]["proj"]["kernel"])
    assert state["visual.proj"].shape == (32, 16) and state["logit_scale"].shape == ()


def test_both_libraries_convert_to_the_same_tree(state, variables):
    theirs = HUGGINGFACE_CLIP.to_published(variables, "huggingface")
    assert theirs["visual_projection.weight"].shape == (16, 32)
    assert theirs["vision_model.encoder.layers.1.self_attn.k_proj.bias"].shape == (32,)
    expected = variable_shapes(MODEL)
    for table, format, arrays in (
        (OPENAI, "official", state),
        (HUGGINGFACE_CLIP, "huggingface", theirs),
    ):
        read = table.from_published(arrays, expected, format=format, source="file")
        assert_equal_trees(read["params"], variables["params"])


def test_a_torchscript_archive_is_the_state_dict(tmp_path, state, variables):
    sizes = {name: np.float32(size) for name, size in (("context_length", 16), ("vocab_size", 64))}
    write_script(tmp_path / "clip.pt", state | {k: np.array(v) for k, v in sizes.items()})
    read = read_torch(tmp_path / "clip.pt")
    assert read.keys() == state.keys() | sizes.keys() and "QuickGELU" in read.kinds
    model, loaded = segjax.load(tmp_path / "clip.pt")
    assert model.activation == "quick_gelu" and model.width == 32
    assert_equal_trees(loaded["params"], variables["params"])


def test_an_archive_that_names_a_program_is_refused(tmp_path, state):
    write_script(tmp_path / "clip.pt", state, module="os")
    with zipfile.ZipFile(tmp_path / "clip.pt") as archive:
        data = archive.read("model/data.pkl")
    data = data.replace(b"cos.___torch_mangle", b"cos.path_mangle")
    assert b"cos." in data
    with pytest.raises(CheckpointError, match="refused"):
        read_torch(tmp_path / "clip.pt")


def test_modules_that_contain_themselves_are_refused(tmp_path):
    # A module that is memoized and then set as its own attribute
    data = b"\x80\x02c__torch__\nM\n)\x81q\x00}" + _text("again") + b"h\x00sb."
    with zipfile.ZipFile(tmp_path / "loop.pt", "w") as archive:
        archive.writestr("loop/data.pkl", data)
    with pytest.raises(CheckpointError, match="nested too deeply, or one contains itself"):
        read_torch(tmp_path / "loop.pt")


def test_the_activation_is_never_guessed(tmp_path, state):
    write_torch(tmp_path / "open_clip.bin", state)
    with pytest.raises(CheckpointError, match=r"does not say with which activation.*activation="):
        segjax.load(tmp_path / "open_clip.bin")
    for activation in ("gelu", "quick_gelu"):
        model, _ = segjax.load("clip_debug", tmp_path / "open_clip.bin", activation=activation)
        assert model.activation == activation
    write_script(tmp_path / "gelu.pt", state, kinds=("GELU",))
    assert segjax.load(tmp_path / "gelu.pt")[0].activation == "gelu"
    with pytest.raises(
        CheckpointError, match="was trained with gelu, and the model has quick_gelu"
    ):
        segjax.load(tmp_path / "gelu.pt", activation="quick_gelu")


def test_a_published_file_has_a_known_activation(tmp_path, state, monkeypatch):
    options = {"activation": "quick_gelu"}
    published = PublishedFile("https://example.org/clip.pt", 1, "0" * 64, "MIT", options=options)
    monkeypatch.setattr("segjax.inference.loading.fetch_named", lambda name: tmp_path / "clip.pt")
    monkeypatch.setattr("segjax.inference.loading.find_published", lambda name: published)
    write_script(tmp_path / "clip.pt", state, kinds=())
    assert segjax.load("clip_debug")[0].activation == "quick_gelu"
    # A file that says something else is not what it should be
    write_script(tmp_path / "clip.pt", state, kinds=("GELU",))
    with pytest.raises(CheckpointError, match="was trained with gelu"):
        segjax.load("clip_debug")


@pytest.mark.parametrize("quick, activation", [(True, "quick_gelu"), (None, "gelu")])
def test_folders_of_open_clip_say_activation_and_preprocessing(tmp_path, state, quick, activation):
    write_arrays(tmp_path / "open_clip_model.safetensors", state, {})
    config = {"embed_dim": 16} | ({"quick_gelu": quick} if quick else {})
    images = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    images["resize_mode"] = "squash"
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": images})
    )
    for path in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        model, _ = segjax.load(path)
        assert model.activation == activation
        assert (model.mean, model.std) == ((0.5,) * 3, (0.25,) * 3)
        assert (model.resize, model.interpolation) == ("squash", "bilinear")


def test_folders_of_transformers_say_the_activation(tmp_path, variables):
    write_checkpoint(tmp_path / "model.safetensors", variables, format="huggingface", metadata={})
    towers = {f"{tower}_config": {"hidden_act": "gelu"} for tower in ("vision", "text")}
    (tmp_path / "config.json").write_text(json.dumps(towers))
    assert segjax.load(tmp_path)[0].activation == "gelu"
    towers["text_config"]["hidden_act"] = "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(towers))
    with pytest.raises(CheckpointError, match="'gelu' and 'quick_gelu'"):
        segjax.load(tmp_path)


def test_a_text_tower_of_its_own(tmp_path, state, variables):
    """Reads names of open_clip's CustomTextCLIP."""
    own = {key: f"text.{key}" for key in state if not key.startswith(("visual", "logit"))}
    write_arrays(tmp_path / "w.safetensors", {own.get(k, k): v for k, v in state.items()}, {})
    _, loaded = segjax.load(tmp_path / "w.safetensors", activation="gelu")
    assert_equal_trees(loaded["params"], variables["params"])


def test_missing_and_derived_models_are_errors(tmp_path, state):
    short = {key: value for key, value in state.items() if key != "ln_final.bias"}
    write_arrays(tmp_path / "short.safetensors", short, {})
    with pytest.raises(CheckpointError, match=r"ln_final\.bias"):
        segjax.load("clip_debug", tmp_path / "short.safetensors", activation="gelu")
    coca = state | {"text.cls_emb": np.zeros(4, np.float32)}
    write_arrays(tmp_path / "coca.safetensors", coca, {})
    with pytest.raises(CheckpointError, match="CoCa"):
        segjax.load(tmp_path / "coca.safetensors", activation="gelu")


def test_files_are_written_for_both_libraries(tmp_path, variables):
    for name, format in (("a.pt", "official"), ("b.safetensors", "huggingface")):
        write_checkpoint(tmp_path / name, variables, format=format, metadata={})
        checkpoint = read_checkpoint(tmp_path / name)
        assert checkpoint.format == format
        read = checkpoint.variables(variable_shapes(MODEL))
        assert_equal_trees(read["params"], variables["params"])
