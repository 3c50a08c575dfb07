"""The references that several files of tests look for, and why they are skipped where there is
none.
"""

import pytest


@pytest.fixture(scope="session")
def torchvision():
    """`torchvision("ops.boxes")` is that module of the reference."""
    pytest.importorskip("torch")
    from parity import torchvision_reference

    try:
        torchvision_reference.torchvision()
    except torchvision_reference.TorchvisionMissing as missing:
        pytest.skip(str(missing))
    return torchvision_reference.torchvision
