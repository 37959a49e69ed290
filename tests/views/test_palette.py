"""One colour a class, in Python and in the pages alike."""

import itertools
import re
from types import SimpleNamespace

import pytest
import torch

import fimviz as fv
from fimviz.views.kit import module as modules
from fimviz.views.kit.palette import ACCENT, PALETTE, WARN, class_color, class_order, faded
from tests.views.test_views import in_node, unpacked

ORDER = [17, 3, *range(100, 160)]


def test_a_class_has_the_colour_of_its_place():
    assert [class_color(c) for c in range(len(PALETTE))] == list(PALETTE)
    assert [class_color(c, ORDER) for c in ORDER[:14]] == list(PALETTE)


@pytest.mark.parametrize("order", [None, ORDER])
def test_both_languages_give_the_same_colours_and_no_two_classes_one(order):
    ours = [class_color(c, order) for c in range(1000)]
    assert len(set(ours)) == 1000
    code = "return data.classes.map((c) => palette.classColor(c, data.order))"
    assert in_node(code, classes=list(range(1000)), order=order) == ours
    assert in_node("return palette.classColor(-1)") == "var(--fv-faint)"


NAMED = "aqua|black|blue|brown|cyan|fuchsia|gold|gr[ae]y|green|lime|magenta|maroon|navy|olive|orange|pink|purple|red"
COLOUR = re.compile(
    r"#[0-9a-fA-F]{3,8}\b|\b(?:rgba?|hsla?|hwb|(?:ok)?l(?:ab|ch))\(\s*[\d.]+.*?\)"
    rf"|(?<=color|.fill|troke|round)[\"\']?\s*[:=]\s*[\"\'`]?(?:dark|light)?(?:{NAMED}|silver|teal|violet|white|yellow)\b"
)


def test_every_colour_stands_in_the_palette():
    known = set(COLOUR.findall((modules.VIEWS / "kit/palette.json").read_text())) | {
        "#000",
        "#fff",
        "#ffffff",
    }  # ink on a colour, and of a brush
    assert known > {*PALETTE, ACCENT, WARN}
    for path in (path for kind in ("js", "py", "css") for path in modules.VIEWS.rglob(f"*.{kind}")):
        assert set(COLOUR.findall(path.read_text())) <= known, path.name
    assert faded("#1976d2", 0.5) == "rgba(25,118,210,0.5)"


@pytest.mark.parametrize(
    "text", ['"#f00"', "#FF00AA", "rgb(1, 2, 3)", "hsl(1,2%,3%)", "rgba(0,0,0,.5)", "stroke: red", 'color="darkgrey"']
)
def test_a_colour_of_its_own_is_found(text):
    assert COLOUR.findall(text)


def test_many_classes_are_ordered_by_what_predictions_are_about():
    p = torch.zeros(2, 20)
    p[0, 7], p[1, 7], p[1, 11] = 0.6, 0.3, 0.7
    assert class_order(p)[:2] == [7, 11]
    assert class_order(p[:, :14]) is None


def test_all_views_of_a_result_agree():
    """Twenty classes: the page of all inputs, of one, and the paths within the explorer's page."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20)).eval()
    x = torch.rand(6, 1, 8, 8)
    s = fv.spectrum(net, x, k=2)
    orders = [unpacked(s.view(samples=samples))[0]["order"] for samples in (None, [3])]
    data = unpacked(fv.explore(net, x, detail=1, include=["margins"]).view())[0]
    (paths,) = data["models"][0]["nested"]["margins"]
    orders += [data["order"], unpacked(SimpleNamespace(**paths))[0]["order"]]
    assert all(order == class_order(s.probabilities) for order in orders)


def test_every_region_of_a_plane_carries_its_name():
    """Three stripes, the outer two of one class: three names, though two classes."""
    code = """
      const p = await import(data.module);
      const m = 9, grid = (f) => Array.from({length: m * m}, (_, i) => f(Math.floor(i / m) / (m - 1)));
      const plane = {points: m, shown: [0, 1], logp: [grid((x) => Math.abs(x - 0.5) - 0.2), grid(() => 0)]};
      return p.centres(plane).map(([c, [[u, v]]]) => [c, u / (m - 1), v / (m - 1)]);
    """
    found = in_node(code, module=(modules.VIEWS / "explorer/plane.js").as_uri())
    assert [c for c, *_ in sorted(found, key=lambda one: one[1])] == [0, 1, 0]
    assert sorted(round(u, 1) for _, u, _ in found) == pytest.approx([0.15, 0.5, 0.85], abs=0.1)


def test_long_names_of_narrow_regions_stand_apart():
    """Seven columns narrower than their names, of one name each."""
    code = """
      const p = await import(data.module);
      const m = 43, classes = Array.from({length: 7}, (_, c) => c), name = (c) => `region number ${c}`;
      const logp = classes.map((c) => Array.from({length: m * m}, (_, i) => (Math.floor(i / m / 6.15) === c ? 0 : -1)));
      const plane = {points: m, reach: 1, information: [1, 1], kl: new Float32Array(m * m), shown: classes, logp};
      const drawn = p.planeOverlay({size: 440, plane, names: classes.map(name), at: [0, 0], label: ""});
      return [...drawn.matchAll(/"direct fv-on" x="([^"]+)" y="([^"]+)"/g)].map(([, x, y]) => [Number(x), Number(y)]);
    """
    found = in_node(code, module=(modules.VIEWS / "explorer/plane.js").as_uri())
    assert len(found) == 7
    wide = 85  # pixels, at least, of fifteen signs
    assert all(abs(a[0] - b[0]) > wide or abs(a[1] - b[1]) >= 14 for a, b in itertools.combinations(found, 2))


def test_the_canvas_of_a_plane_fills_its_axes():
    code = """
      const p = await import(data.module);
      const [left, top, side] = p.inside(440);
      return [p.placeAt(440, 1, left, top), p.placeAt(440, 1, left + side, top + side)];
    """
    found = in_node(code, module=(modules.VIEWS / "explorer/plane.js").as_uri())
    assert found == [pytest.approx([-1, 1]), pytest.approx([1, -1])]
