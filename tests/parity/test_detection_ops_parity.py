"""The operations under Mask R-CNN beside torchvision's; `torchvision_reference.py` says how to bring it.

SEGJAX_TORCHVISION=/some/folder pytest -m parity tests/parity/test_detection_ops_parity.py
"""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
RNG = np.random.default_rng(0)


def some_boxes(count, low=-8, high=40):
    corner = RNG.uniform(low, high, (count, 2))
    return np.concatenate([corner, corner + RNG.uniform(0, high - low, (count, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_the_stand_in_for_the_compiled_roi_align(torchvision, samples, aligned):
    """torchvision's Python has the rule but for samples outside of the map, so the boxes are inside."""
    import torch

    from parity.torchvision_reference import roi_align

    features = torch.rand(2, 3, 17, 23)
    corner = torch.rand(40, 2) * 10
    rois = torch.cat([torch.randint(0, 2, (40, 1)).float(), corner, corner + torch.rand(40, 2) * 7], 1)
    arguments = (features, rois, 1.0, 3, 4, samples, aligned)
    theirs = torchvision("ops.roi_align")._roi_align.__wrapped__(*arguments)
    torch.testing.assert_close(roi_align(*arguments), theirs, rtol=0, atol=2e-6)
