"""`segjax export --onnx`: SAM's parts as ONNX files with segment-anything's names and rules."""

import sys

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.cli import main
from segjax.inference.onnx.check import check_decoder
from segjax.inference.onnx.contract import EMPTY, select_single_mask
from segjax.models.sam.build import build_sam, init_sam
from segjax.weights.safetensors import save_variables

MODEL = build_sam("sam_debug")
SLOTS = 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "sam.safetensors"
    save_variables(path, drawn_variables(MODEL, init_sam), {"model": {"name": "sam_debug"}})
    return str(path)


@pytest.fixture(scope="module")
def decoder(weights):
    """The path of a decoder with one mask, which the command has compared with JAX."""
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    out = weights.replace("sam.safetensors", "new/decoder.onnx")
    options = ("--onnx", "decoder", "--return-single-mask", "--points", str(SLOTS))
    assert main(["export", weights, *options, "--out", out]) == 0
    return out


def open_file(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def make_feeds(points, size):
    side, random = MODEL.mask_side, np.random.default_rng(0)
    feeds = {
        "image_embeddings": random.standard_normal((1, MODEL.prompt_width, side // 4, side // 4)),
        "point_coords": random.uniform(0, MODEL.canvas, (1, points, 2)),
        "point_labels": np.array([[1, 0, 1, 1, 2, 3, 1][-points:]]),
        "mask_input": np.zeros((1, 1, side, side)),
        "has_mask_input": np.zeros(1),
        "orig_im_size": np.array(size),
    }
    return {name: value.astype(np.float32) for name, value in feeds.items()}


def test_the_decoder_has_the_names_and_shapes_of_segment_anything(decoder):
    session, side = open_file(decoder), MODEL.mask_side
    described = {value.name: value.shape for value in session.get_inputs()}
    assert described == {
        "image_embeddings": [1, MODEL.prompt_width, side // 4, side // 4],
        "point_coords": [1, "num_points", 2],
        "point_labels": [1, "num_points"],
        "mask_input": [1, 1, side, side],
        "has_mask_input": [1],
        "orig_im_size": [2],
    }
    assert all(value.type == "tensor(float)" for value in session.get_inputs())
    names = [value.name for value in session.get_outputs()]
    assert names == ["masks", "iou_predictions", "low_res_masks"]
    for points, size in ((2, (90, 50)), (3, (30, 41)), (SLOTS, (64, 64))):
        masks, iou, low_res = session.run(None, make_feeds(points, size))
        assert masks.shape == (1, 1, *size) and iou.shape == (1, 1)
        assert low_res.shape == (1, 1, side, side) and np.isfinite(masks).all()


def test_too_many_points_are_an_error_with_their_number(decoder):
    with pytest.raises(Exception, match=f"more_than_{SLOTS}_points"):
        open_file(decoder).run(None, make_feeds(SLOTS + 1, (64, 64)))


def test_the_check_finds_other_weights(decoder):
    variables = drawn_variables(MODEL, init_sam)
    options = dict(single_mask=True, slots=SLOTS)
    assert check_decoder(decoder, MODEL, variables, **options).is_small()
    filters = variables["params"]["mask_decoder"]["hypernetwork_0"]["layer_2"]
    filters["bias"] = filters["bias"] + 0.01
    difference = check_decoder(decoder, MODEL, variables, **options)
    assert not difference.is_small() and difference.largest["predicted IoU"] < 1e-4


@pytest.mark.parametrize(("points", "expected"), [(1, 2), (2, 2), (3, 0), (9, 0)])
def test_the_number_of_points_selects_the_single_mask(points, expected):
    """segment-anything adds (n - 2.5) * 1000 to the score of mask 0, and padding points count."""
    labels = np.where(np.arange(12) < points, -1, EMPTY)[None]
    logits = np.arange(4.0)[None, :, None, None] * np.ones((1, 4, 2, 2))
    iou = np.array([[0.99, 0.1, 0.8, 0.5]])
    mask, score = select_single_mask(logits, iou, labels)
    assert mask.shape == (1, 1, 2, 2) and float(mask[0, 0, 0, 0]) == expected
    assert float(score[0, 0]) == pytest.approx(iou[0, expected])


def test_the_encoder_takes_images_of_any_shape_up_to_the_canvas(weights, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    out = str(tmp_path / "encoder.onnx")
    assert main(["export", weights, "--onnx", "encoder", "--out", out]) == 0
    text = capsys.readouterr().out
    assert f"wrote {out}: encoder, images of 64 pixels" in text
    assert "embedding by " in text and "over 3 drawn inputs" in text
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    session = open_file(out)
    (embedding,) = session.run(None, {"input_image": np.full((1, 3, 64, 20), 9, np.float32)})
    assert embedding.shape == (1, MODEL.prompt_width, 4, 4)
    with pytest.raises(Exception, match="image_larger_than_64_pixels"):
        session.run(None, {"input_image": np.zeros((1, 3, 64, 65), np.float32)})


def test_large_models_keep_their_arrays_beside_the_file(decoder, tmp_path):
    onnx = pytest.importorskip("onnx")
    from segjax.inference.onnx.export import write_model

    path = tmp_path / "large.onnx"
    with write_model(path, onnx.load(decoder), max_message=1000):
        assert not path.exists()
    assert sorted(part.name for part in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    feeds = make_feeds(3, (40, 64))
    pairs = zip(
        open_file(str(path)).run(None, feeds), open_file(decoder).run(None, feeds), strict=True
    )
    assert all(np.array_equal(x, y) for x, y in pairs)
    # A file that fails its check leaves the old one
    before = path.read_bytes()
    with pytest.raises(RuntimeError), write_model(path, onnx.load(decoder)):
        raise RuntimeError
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_a_missing_package_says_what_to_install(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    monkeypatch.setitem(sys.modules, "onnx", sys)
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    out = str(tmp_path / "d.onnx")
    assert main(["export", weights, "--onnx", "decoder", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "jax2onnx is missing" in error and "pip install 'segjax[onnx]'" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--onnx", "decoder", "--canvas", "64", "64"), "--canvas is for detectors"),
        (("--onnx", "encoder", "--batch", "2"), "--batch is for detectors"),
        (("--onnx", "encoder", "--return-single-mask"), "--return-single-mask is for mask decode"),
        (("--points", "9"), "--points is for mask decoders; add --onnx decoder"),
    ],
)
def test_options_of_another_export_are_refused(weights, tmp_path, capsys, options, message):
    out = str(tmp_path / "file")
    assert main(["export", weights, *options, "--out", out]) == 2
    assert message in capsys.readouterr().err


def test_a_decoder_of_one_point_is_refused(weights, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    options = ("--onnx", "decoder", "--points", "1", "--out", str(tmp_path / "d.onnx"))
    assert main(["export", weights, *options]) == 2
    assert "1 points; expected at least 2" in capsys.readouterr().err
