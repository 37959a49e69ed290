"""What `python -m tests.gpu` rests on: networks, the runner, the page. The command itself runs in `.ci/run`."""

import os
import time

import pytest
import torch

from tests.gpu import pack, report
from tests.gpu.networks import NETWORKS, network
from tests.gpu.runner import Place, Task, run

HERE = Place("cpu", True)


@pytest.mark.parametrize(
    ("name", "theirs"), [("ResNet-18", "resnet18"), ("ResNet-50", "resnet50"), ("MobileNetV2", "mobilenet_v2")]
)
def test_networks_are_those_of_torchvision(name, theirs):
    torchvision = pytest.importorskip("torchvision")
    ours = network(name, 7)
    with torch.device("meta"):
        other = getattr(torchvision.models, theirs)(num_classes=7)
    other = other.to_empty(device="cpu").eval()
    other.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), other(x))


def test_vision_transformer_is_that_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    from tests.gpu.networks import VisionTransformer

    ours = VisionTransformer(7, dim=24, heads=3, depth=2).eval()
    other = torchvision.models.VisionTransformer(224, 16, 2, 3, 24, 96, num_classes=7).eval()
    other.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(ours(x), other(x), atol=1e-5)


def test_resnet20_has_its_weights():
    build, _ = NETWORKS["ResNet-20"]
    assert sum(p.numel() for p in build(10).parameters()) == 269_722  # He et al. (2016): 0.27 M


def right(place):
    return {"value": 1.5}


def wrong(place):
    raise ValueError("so it is")


def broken(place):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def crash(place):
    os._exit(3)


def hang(place):
    time.sleep(600)


def test_nothing_costs_another_task():
    tasks = [Task(f.__name__, "checks", f) for f in (right, wrong, crash, broken, hang)]
    tasks[4] = Task("hang", "checks", hang, 0.2)
    tasks.append(Task("last", "checks", right))
    found = []
    run(tasks, HERE, time.time() + 500, found.append)
    states = {t["name"]: t["status"] for t in found}
    assert states == {"right": "ok", "wrong": "failed", "crash": "crashed", "broken": "failed", "hang": "hung",
                      "last": "ok"}  # fmt: skip
    assert found[0]["value"] == 1.5
    assert "so it is" in found[1]["error"]


def test_without_time_every_task_says_so():
    found = []
    run([Task("right", "checks", right)], HERE, time.time() - 1, found.append)
    assert found == [{"name": "right", "part": "checks", "status": "no time left"}]


def test_the_page_says_what_was_met_and_what_not():
    setting = {"name": "setting ResNet-50 1000 32", "part": "figures", "status": "ok", "network": "ResNet-50",
               "K": 1000, "batch": 32, "forward": 1.0, "floor": 10.0, "floor by": "vmap 8", "exact": 10.5,
               "exact, verified": 15.0, "lanczos": 2.0, "lanczos: its passes": 1.9}  # fmt: skip
    tasks = [setting, {"name": "exact", "part": "checks", "status": "failed", "error": "ValueError: |\nmore"}]
    page = report.document({"machine": {"card": "some card"}, "tasks": tasks})
    assert "| exact ≤ 1.1× its floor (ResNet-50, K = 1000, batch 32) | 1.05× | yes |" in page
    assert "| verified ≤ 1.3× unverified, exact (ResNet-50, K = 1000, batch 32) | 1.43× | **no** |" in page
    assert "| Lanczos ≤ 1.2× its own passes (ResNet-50, K = 1000, batch 32) | 1.05× | yes |" in page
    assert "0 of 1 right" in page
    assert "ValueError: \\| more" in page


def test_what_is_packed_is_small_and_whole(tmp_path, monkeypatch, realdata):
    monkeypatch.setattr(pack, "PACK", tmp_path / "pack")
    assert pack.real("cifar10-resnet20", 2) is None
    pack.fill()
    assert sum(file.stat().st_size for file in pack.PACK.iterdir()) < pack.LIMIT
    for name in pack.WEIGHTS:
        net, x = pack.real(name, 2)
        with torch.no_grad():
            assert net(x).isfinite().all()
