"""What a model's logits mean: one file a distribution, one row of the table to add one."""

from fimviz.model.likelihoods.bernoulli import Bernoulli
from fimviz.model.likelihoods.categorical import Categorical
from fimviz.model.likelihoods.protocol import Factor, Likelihood

__all__ = ["LIKELIHOODS", "Bernoulli", "Categorical", "Factor", "Likelihood"]

LIKELIHOODS: dict[str, Likelihood] = {"categorical": Categorical(), "bernoulli": Bernoulli()}
