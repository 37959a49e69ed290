import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the networks are small: a second thread mostly waits, for whatever else is running

# The same examples every time: a run that fails can be run again, and one that passed stays passed.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def realdata():
    """Real images and trained networks, which live beside the repository and not in it."""
    if not (DATA / "realdata.py").exists():
        pytest.skip("the folder of real images and networks, ../shared/data, is absent")
    spec = importlib.util.spec_from_file_location("realdata", DATA / "realdata.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["realdata"] = module
    spec.loader.exec_module(module)
    return module
