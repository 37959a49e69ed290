"""What the divergence view carries, and its HTML, without a browser."""

import json
import zlib
from base64 import b64decode

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.views.divergence.distributions import distributions


def unpacked(figure):
    whole = zlib.decompress(b64decode(figure.state["payload"]))
    size = int.from_bytes(whole[:4], "little")
    return json.loads(whole[4 : 4 + size]), whole[4 + size :]


def toy(classes, shape, count=8, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    labels = torch.arange(count) % min(classes, 5)
    return fv.cckl(fv.Classifier(model, **options), torch.rand(count, *shape), labels)


@pytest.fixture(scope="module")
def results():
    images, labels = fv.zoo.digits()
    return [fv.cckl(fv.zoo.load(name), images[:40], labels[:40]) for name in ("digits-resnet", "digits-resnet-robust")]


class TestDistributions:
    def test_every_pair_is_in_a_bin_or_counted(self, results):
        for d in distributions({"a": results[0], "b": results[1]}):
            for r, model in zip(results, d.models, strict=True):
                assert sum(model["shares"]) == pytest.approx(1, abs=1e-9)
                assert model["median"] == pytest.approx(r.summary.loc[d.key, "median"])
                assert model["note"] == ""
                assert d.low < model["places"][1] < d.high
            assert all(d.low <= at <= d.high for at, _ in d.ticks)
            assert len(d.ticks) > 1

    def test_bins_are_where_the_axis_says(self, results):
        kl = distributions({"a": results[0]})[0]
        edges = np.linspace(kl.low, kl.high, len(kl.models[0]["shares"]) + 1)
        expected, _ = np.histogram(results[0].kl.log10().numpy(), edges)
        assert kl.models[0]["shares"] == pytest.approx((expected / len(results[0])).tolist())

    def test_negative_g2_is_said(self, results):
        g2 = distributions({"robust": results[1]})[1]
        share = float((results[1].g2 < 0).double().mean())
        assert g2.models[0]["negative"] == share > 0
        below = [s for k, s in enumerate(g2.models[0]["shares"]) if g2.low + (k + 1) * (g2.high - g2.low) / 40 <= 0]
        assert sum(below) == pytest.approx(share, abs=0.05)

    def test_pairs_without_divergence_are_counted(self):
        net = fv.Classifier(nn.Linear(2, 2))
        r = fv.cckl(net, torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]]), [0, 1, 1])
        kl, _, ratio = distributions({"a": r})
        assert "50 % of the pairs are 0" in kl.models[0]["note"]
        assert "50 % have none: KL is 0" in ratio.models[0]["note"]


class TestPayload:
    def test_it_carries_maps_and_lines(self, results):
        figure = results[0].view()
        data, raw = unpacked(figure)
        assert data["shown"] == sorted(results[0].labels.unique().tolist())
        table = results[0].by_class["g1"].values
        got = np.array(data["tables"]["g1"], dtype=float)
        np.testing.assert_allclose(got, table[np.ix_(data["shown"], data["shown"])], rtol=1e-5)
        assert [p["place"] for p in data["pairs"]] == list(figure.setup["shown"])
        for p in data["pairs"][::17]:
            path = results[0].path(p["i"], p["j"], steps=20)
            assert p["kl"] == float(results[0].kl[p["place"]])
            np.testing.assert_allclose(p["along"], path.kl, rtol=1e-3, atol=1e-6)
            assert p["says"] == path.probabilities.argmax(1).tolist()
        sample = data["samples"][3]
        start, length = sample["image"]
        pixels = np.frombuffer(raw[start : start + length], np.uint8)
        np.testing.assert_array_equal(pixels, (255 * results[0].images[sample["index"]]).round().flatten())
        assert len(figure.html()) < 500_000

    def test_examples_are_smallest_median_and_largest(self, results):
        data, _ = unpacked(results[0].view())
        frame = results[0].frame
        for (a, b), group in frame.groupby(["class_i", "class_j"]):
            own = [p for p in data["pairs"] if (results[0].labels[p["i"]], results[0].labels[p["j"]]) == (a, b)]
            kl = {role: p["kl"] for p in own for role in p["role"].split(" and ")}
            assert kl["smallest"] == group.kl.min()
            assert kl["largest"] == group.kl.max()
            assert kl["median"] == group.kl.sort_values().iloc[(len(group) - 1) // 2]

    def test_pairs_that_are_asked_for(self, results):
        pair = int(results[0].i[7]), int(results[0].j[7])
        data, _ = unpacked(results[0].view(pairs=[pair]))
        assert [(p["i"], p["j"], p["role"]) for p in data["pairs"]] == [(*pair, "chosen")]
        assert data["left"].startswith(f"1 of {len(results[0]):,} pairs carry their lines here: those that were asked")
        few = unpacked(results[0].view(pairs=5))[0]
        assert len(few["pairs"]) == 5
        classes = len(set(results[0].labels.tolist()))
        assert few["left"] == (
            f"5 of {len(results[0]):,} pairs carry their lines here: the median KL of 5 class pairs, none of "
            f"{classes * (classes - 1) - 5} others. All are in the numbers; .view(pairs=[(i, j)]) opens any."
        )
        for bad, error in [
            ([], ValueError),
            ([(0, 0)], ValueError),
            (0, ValueError),
            ("all", TypeError),
            ([1, 2], TypeError),
        ]:
            with pytest.raises(error):
                results[0].view(pairs=bad)

    def test_several_models_and_hostile_names(self, results):
        hostile = "<script>alert(1)</script> with a name of more than forty characters"
        figure = results[0].view(against={hostile: results[1]}, name="standard")
        assert "<script>alert" not in figure.html()
        data, _ = unpacked(figure)
        assert [m["name"] for m in data["models"]] == ["standard", hostile]
        with pytest.raises(ValueError, match="expected at most 14"):
            results[0].view(against={str(k): results[1] for k in range(15)})
        assert "<script>alert" not in results[0].plot(against={hostile: results[1]}).to_json()

    @pytest.mark.parametrize(
        ("classes", "shape"), [(11, (1, 8, 8)), (2, (3, 16, 16)), (1000, (3, 8, 8)), (3, (20,)), (3, (4, 5, 5))]
    )
    def test_other_models_and_inputs(self, classes, shape):
        figure = toy(classes, shape, input_range=(0, 1)).view()
        data, _ = unpacked(figure)
        assert len(data["shown"]) == min(classes, 5)
        assert data["kind"] == ("image" if len(shape) == 3 and shape[0] in (1, 3) else "series")
        assert ("<img" in figure.still) == (data["kind"] == "image")

    def test_lines_of_large_images_take_a_megabyte(self):
        figure = toy(3, (3, 224, 224), count=10).view()
        data, _ = unpacked(figure)
        assert 1 <= len(data["pairs"]) < 20
        assert len(figure.html().encode()) < 1_000_000

    def test_refuses_a_page_too_large(self, results):
        with pytest.raises(ValueError, match="max_bytes"):
            results[0].view(max_bytes=1000).html()

    def test_widget_traits(self, results):
        widget = results[0].widget()
        place = widget.shown[5]
        widget.pair = place
        assert widget.pair == place
        missing = next(k for k in range(len(results[0])) if k not in widget.shown)
        with pytest.raises(Exception, match="carries its line"):
            widget.pair = missing
        widget.position = 99
        assert widget.position == widget.steps
        widget.quantity = "g2"
        assert repr(widget).startswith("Divergence(")
        widget.close()


def test_plot(results):
    figure = results[0].plot(against={"robust": results[1]}, name="standard")
    lines = [t for t in figure.data if t.mode == "lines"]
    assert len(lines) == 6
    assert all(sum(t.y) == pytest.approx(100) for t in lines)
    assert "standard: CCKL = " in figure.layout.title.text
