import importlib.util
import os
import sys
from pathlib import Path

import pytest

# The networks are small: a second thread mostly waits, for whatever else is running. Set before torch is imported,
# because its linear algebra does not ask `torch.set_num_threads`, and for the kernels that the notebooks start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

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
