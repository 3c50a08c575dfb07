"""The demo model in the package: it is there, loads without a network, and segments."""

import numpy as np
import pytest

import segjax
from segjax.cli import main
from segjax.data.synthetic.scenes import SyntheticScenes
from segjax.masks import decode_mask
from segjax.weights import download
from segjax.weights.registry import DEMO, find_packaged, find_published
from segjax.weights.tree import CheckpointError


def test_the_file_is_small_and_holds_no_paths():
    file = find_packaged(DEMO)
    assert 2e6 < file.stat().st_size < 3e6
    assert find_packaged(DEMO.upper()) == file and find_packaged("sam_vit_b") is None
    assert find_published(DEMO) is None
    header = file.read_bytes()[:20_000]
    assert b"/tmp" not in header and b"/home" not in header and b"BF16" in header


def test_it_segments_held_out_scenes_from_one_click():
    predictor = segjax.SamPredictor.load(DEMO)
    assert predictor.model.canvas == 256
    scenes = SyntheticScenes("heldout", 6)
    ious = []
    for scene in (scenes[index] for index in range(len(scenes))):
        predictor.set_image(scene["image"])
        for rle in scene["objects"]["rle"]:
            mask = decode_mask(rle, scene["height"], scene["width"])
            rows, columns = np.nonzero(mask)
            inside = np.argmin(np.hypot(rows - rows.mean(), columns - columns.mean()))
            point = [[columns[inside], rows[inside]]]
            masks, scores, _ = predictor.predict(point_coords=point, point_labels=[1])
            predicted = masks[np.argmax(scores)]
            ious.append((predicted & mask).sum() / (predicted | mask).sum())
    assert len(ious) > 15 and np.mean(ious) > 0.6


def test_commands_use_it_without_a_checkpoint_and_say_so(tmp_path, capsys):
    clicks = ["--point", "287,155"]
    assert main(["predict", "demo", *clicks, "--out", str(tmp_path / "out")]) == 0
    assert "no --checkpoint: using sam_tiny_demo, a small model" in capsys.readouterr().out
    assert (tmp_path / "out" / "demo_overlay.png").exists()
    assert main(["predict", "demo", *clicks, "--step", "3", "--out", str(tmp_path / "out")]) == 2
    assert "name it with --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["detect", "reconstruct"])
def test_commands_of_other_families_still_ask_for_a_checkpoint(command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([command, "demo", "--out", str(tmp_path)])
    assert "--checkpoint" in capsys.readouterr().err


def test_a_changed_or_missing_file_is_refused(tmp_path, monkeypatch):
    changed = bytearray(find_packaged(DEMO).read_bytes())
    changed[-100] ^= 1
    copy = tmp_path / "copy.safetensors"
    monkeypatch.setattr(download, "find_packaged", lambda name: copy)
    with pytest.raises(FileNotFoundError, match="the installation is incomplete"):
        segjax.load(DEMO)
    copy.write_bytes(changed)
    with pytest.raises(CheckpointError, match="has changed since segjax was released"):
        segjax.load(DEMO)
