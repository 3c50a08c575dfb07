"""Our detectors beside torchvision's with the same weights, stage by stage.

pip install --no-deps --target FOLDER torchvision==0.28.0
SEGJAX_TORCHVISION=FOLDER pytest -m parity tests/parity/test_detector_parity.py
"""

import functools

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5  # of the largest magnitude of the reference

NAMES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (1, 128, 160, 3), np.uint8)
REGIONS = {side: RNG.normal(size=(3, side, side, 256)).astype(np.float32) for side in (7, 14)}


def our_stages(model, variables):
    def run(variables, images, regions):
        def answers(module):
            levels = module.encode_image(images)
            logits, deltas = module.propose(levels)
            scores, boxes = module.classify(regions[7])
            out = dict(levels=levels, logits=logits, deltas=deltas, scores=[scores], boxes=[boxes])
            if model.mask_convs:
                out["masks"] = [module.segment(regions[14])]
            if model.keypoints:
                out["keypoints"] = [module.locate(regions[14])]
            return out

        return model.apply(variables, method=answers)

    return jax.jit(run)(variables, IMAGES, REGIONS)


@functools.cache
def made(name):
    model = build_model(name)
    return model, drawn_variables(model, init_model)


@pytest.mark.parametrize("name", NAMES)
def test_every_stage(torchvision, name, record_property):
    from parity.detector_reference import stages, torchvision_detector

    model, variables = made(name)
    theirs = stages(torchvision_detector(torchvision, name, model, variables), IMAGES, REGIONS)
    ours = our_stages(model, variables)
    assert ours.keys() == theirs.keys() - {"maps"}
    for stage, found in ours.items():
        for place, (one, other) in enumerate(zip(found, theirs[stage], strict=True)):
            assert one.shape == other.shape, (stage, place)
            value = float(np.abs(one - other).max() / np.abs(other).max())
            record_property(f"{stage} {place}", value)
            print(f"{name}: {stage} {place} {one.shape}: {value:.1e} of {np.abs(other).max():.3g}")
            assert value < TOLERANCE, f"{stage} {place} differs by {value:.1e} of the largest magnitude"
