import socket

import numpy as np
import pytest

from segjax.data.synthetic import photographs


def test_every_photograph_is_rgb_and_in_one_split_only():
    train, heldout = photographs.load_photographs("train"), photographs.load_photographs("heldout")
    assert not set(train) & set(heldout)
    assert len(train) >= 10 and len(heldout) >= 5
    for name, pixels in (train | heldout).items():
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, name
        assert min(pixels.shape[:2]) >= 300 and pixels.std() > 5, name
    assert "motorcycle_right" not in train | heldout  # the same scene as motorcycle_left


def test_no_network_is_used(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a photograph was fetched over the network")

    monkeypatch.setattr(socket, "socket", refuse)
    photographs.load_photographs.cache_clear()
    assert len(photographs.load_photographs("heldout")) == len(photographs.SPLITS["heldout"])


def test_points_of_the_demonstration_photograph_lie_on_their_objects():
    photograph = photographs.load_demonstration_photograph()
    assert photograph.shape == (400, 600, 3)
    np.testing.assert_array_equal(photograph, photographs.load_photographs("heldout")["coffee"])
    prompts = photographs.get_demonstration_prompts()
    color = {name: photograph[int(y), int(x)].astype(int) for name, (x, y) in prompts.items()}
    # Red ceramics: far more red than blue. The spoon is metal, the espresso light brown.
    for name in ("saucer", "handle"):
        assert color[name][0] > 2.5 * color[name][2], (name, color[name])
    assert color["espresso"][0] > 150 > color["espresso"][2]
    assert np.ptp(color["spoon"]) < 90


def test_demonstration_photograph_is_a_copy():
    photographs.load_demonstration_photograph()[:] = 0
    assert photographs.load_demonstration_photograph().any()


def test_unknown_split_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown split 'test'.*'train', 'heldout'"):
        photographs.load_photographs("test")


def test_missing_file_names_photograph_and_package(monkeypatch):
    monkeypatch.setitem(photographs.SPLITS, "train", ("no_such.png",))
    photographs.load_photographs.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"no_such\.png.*scikit-image"):
        photographs.load_photographs("train")
    photographs.load_photographs.cache_clear()
