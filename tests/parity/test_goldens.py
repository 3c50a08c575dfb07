"""The files in tests/golden hold the outputs of the reference implementation.

pytest -m parity tests/parity
"""

import importlib.util
import pathlib
import runpy

import numpy as np
import pytest

pytestmark = pytest.mark.parity
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", ["sam_debug", "sam_frame"])
def test_the_goldens_equal_the_references_outputs(name):
    pytest.importorskip("torch")
    if importlib.util.find_spec("segment_anything") is None:
        pytest.skip("segment-anything is not installed")
    outputs = runpy.run_path(str(ROOT / "tools" / "make_goldens.py"))["GOLDENS"][name]()
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
        assert sorted(file) == sorted(outputs)
        for key in file:  # to 2e-6 of the largest magnitude, because CPUs sum in different orders
            scale = np.abs(file[key]).max(initial=1e-9)
            np.testing.assert_allclose(
                outputs[key], file[key], rtol=0, atol=2e-6 * scale, err_msg=key
            )
