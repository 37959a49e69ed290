"""What a model's logits mean: one file a distribution, one row of the table to add one."""

from fimviz.model.likelihoods.bernoulli import Bernoulli
from fimviz.model.likelihoods.categorical import Categorical
from fimviz.model.likelihoods.gaussian import Gaussian
from fimviz.model.likelihoods.poisson import Poisson
from fimviz.model.likelihoods.protocol import Factor, Likelihood

__all__ = ["LIKELIHOODS", "Factor", "Gaussian", "Likelihood", "likelihood_of"]

LIKELIHOODS: dict[str, Likelihood] = {one.name: one for one in (Categorical(), Bernoulli(), Gaussian(), Poisson())}


def likelihood_of(given: str | Likelihood) -> Likelihood:
    """A likelihood, or the one of that name."""
    if isinstance(given, Likelihood):
        return given
    if given not in LIKELIHOODS:
        raise ValueError(f"likelihood is {given!r}, expected one of {', '.join(LIKELIHOODS)}, or fv.Gaussian(sigma=…)")
    return LIKELIHOODS[given]
