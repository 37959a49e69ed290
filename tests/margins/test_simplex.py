"""Fisher–Rao geometry against closed forms, brute force and its own axioms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fimviz.margins import simplex
from fimviz.margins.simplex import log_probs


def points(seed, *shape, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return log_probs(spread * torch.randn(*shape, generator=generator, dtype=torch.float64))


class TestDistance:
    def test_two_classes(self):
        """On two classes p = sin²(θ/2), and the distance is that of the angles."""
        angles = torch.linspace(0, math.pi, 41, dtype=torch.float64)
        p = torch.stack([torch.sin(angles / 2) ** 2, torch.cos(angles / 2) ** 2], 1).log()
        found = simplex.distance(p[:, None], p[None])
        assert torch.allclose(found, (angles[:, None] - angles).abs(), atol=1e-14)

    def test_arccos_where_it_has_digits(self):
        p, q = points(0, 50, 6), points(1, 50, 6)
        direct = 2 * torch.arccos((0.5 * (p + q)).exp().sum(1))
        assert torch.allclose(simplex.distance(p, q), direct, rtol=1e-10)

    def test_near_points_have_all_digits(self):
        """Two classes with logit ±u: d = 2|gd(u₂)−gd(u₁)|/…; to first order √(p₁p₂) times the step of the logit."""
        z = torch.tensor([1.0, 0.0], dtype=torch.float64)
        p = z.softmax(0)
        for step in (1e-6, 1e-9):
            moved = z + torch.tensor([step, 0.0], dtype=torch.float64)
            expected = float((p[0] * p[1]).sqrt()) * float(moved[0] - z[0])
            found = float(simplex.distance(log_probs(z[None]), log_probs(moved[None])))
            assert found == pytest.approx(expected, rel=2e-6)

    def test_nearly_certain(self):
        """From (1, e⁻²ᵃ) to (1, e⁻²ᵇ), odds that 1 − p cannot hold: 2(e⁻ᵃ − e⁻ᵇ)."""
        p = log_probs(torch.tensor([[0.0, -80.0], [0.0, -90.0]], dtype=torch.float64))
        assert float(simplex.distance(p[0], p[1])) == pytest.approx(2 * (math.exp(-40) - math.exp(-45)), rel=1e-12)

    def test_corners(self):
        corners = torch.eye(4).log()
        expected = math.pi * (1 - torch.eye(4, dtype=torch.float64))
        assert torch.allclose(simplex.distance(corners[:, None], corners[None]), expected, atol=1e-12)

    @given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.01, 60))
    @settings(max_examples=40, deadline=None)
    def test_a_metric(self, seed, classes, spread):
        p, q, r = points(seed, 3, 20, classes, spread=spread)
        pq, qr, pr = (simplex.distance(*pair) for pair in ((p, q), (q, r), (p, r)))
        assert torch.equal(pq, simplex.distance(q, p))
        assert (simplex.distance(p, p) == 0).all()
        assert (pr <= pq + qr + 1e-14).all()
        assert (pq <= math.pi).all()


class TestGeodesic:
    def test_constant_speed_and_no_detour(self):
        p, q = points(2, 10, 5), points(3, 10, 5)
        whole = simplex.distance(p, q)
        for share in (0.0, 0.2, 0.7, 1.0):
            r = simplex.geodesic(p, q, share)
            assert torch.allclose(r.exp().sum(1), torch.ones(10).double(), atol=1e-13)
            assert torch.allclose(simplex.distance(p, r), share * whole, atol=1e-12)
            assert torch.allclose(simplex.distance(r, q), (1 - share) * whole, atol=1e-12)

    def test_between_corners_and_equal_points(self):
        corners = torch.eye(3).log()
        assert torch.allclose(simplex.geodesic(corners[0], corners[1], 0.5).exp(), torch.tensor([0.5, 0.5, 0]).double())
        p = points(4, 3, 4)
        assert torch.allclose(simplex.geodesic(p, p, torch.tensor([0.0, 0.4, 1.0])), p, atol=1e-12)

    def test_shares_outside(self):
        with pytest.raises(ValueError, match="expected shares from 0 to 1"):
            simplex.geodesic(points(0, 3), points(1, 3), 1.5)

    def test_toward_is_its_derivative(self):
        p, q = points(5, 8, 4, spread=1.0), points(6, 8, 4, spread=1.0)
        step = 1e-6
        slope = (simplex.geodesic(p, q, step).exp() - p.exp()) / step
        slope = slope / slope.abs().amax(1, keepdim=True)
        assert torch.allclose(simplex.toward(p, q), slope, atol=1e-4)


class TestBoundary:
    def test_brute_force(self):
        """No point where k has overtaken y is nearer, and the foot of the perpendicular is as near."""
        p = points(7, 3, spread=1.5)
        order = p.argsort(descending=True)
        bound = float(simplex.boundary_distance(p, order[0], order[1]))
        generator = torch.Generator().manual_seed(0)
        beyond = log_probs(4 * torch.randn(200_000, 3, generator=generator, dtype=torch.float64))
        beyond = beyond[beyond[:, order[1]] >= beyond[:, order[0]]]
        nearest = float(simplex.distance(p, beyond).min())
        assert bound <= nearest <= bound * 1.02
        mirrored = simplex.mirrored(p, order[0], order[1])
        foot = simplex.geodesic(p, mirrored, 0.5)
        assert float(foot[order[0]] - foot[order[1]]) == pytest.approx(0, abs=1e-12)
        assert float(simplex.distance(p, foot)) == pytest.approx(bound, rel=1e-12)

    def test_corner_and_overtaken(self):
        p = torch.tensor([1.0, 0.0, 0.0]).log()
        source, target = torch.tensor(0), torch.tensor(2)
        assert float(simplex.boundary_distance(p, source, target)) == pytest.approx(math.pi / 2, rel=1e-14)
        assert float(simplex.boundary_distance(p, target, source)) == 0

    def test_near_the_boundary(self):
        """p = (½ + ε, ½ − ε): 2 arcsin(ε(1 + …)) = 2ε."""
        z = torch.tensor([1e-9, 0.0], dtype=torch.float64)
        found = float(simplex.boundary_distance(log_probs(z[None])[0], torch.tensor(0), torch.tensor(1)))
        assert found == pytest.approx(float(z[0]) / 2, rel=1e-8)
