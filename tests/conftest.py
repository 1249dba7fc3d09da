"""What the whole suite shares: a device without values."""

import pytest
import torch


@pytest.fixture(scope="session")
def fake_device():
    """A device on which every read by the host and every mixture with another device raises."""
    from torch.utils import backend_registration

    if torch._C._get_privateuse1_backend_name() != "fakegpu":
        backend_registration._setup_privateuseone_for_python_backend("fakegpu")
    # registration outlives the tests, and torch.utils.checkpoint asks every backend for this
    torch.fakegpu.get_amp_supported_dtype = lambda: [torch.float16]
    return torch.device("fakegpu")
