"""The bounds of λ₁ by a formula, one row each: the rungs of the ladder, and lower bounds.

What a formula says of the distribution is a name in braces, of `fimviz.model.likelihoods.protocol.Symbols`.
"""

import math

from fimviz._ways import table
from fimviz.bounds.ladder import SPARE, Formula, Ladder, lower_trace

_GRADIENTS = "the point, and the gradient of every logit there"
_WEIGHTS = "the weights and the size of the input"
BALL = Formula(
    name="ball",
    bound=Ladder.ball,
    guarantee="upper",
    needs="the point and the weights; it holds at every point within the radius",
    short="the point, the radius and the weights; × is to λ₁ at the point",
    formula="‖√p̄ (J − J̄)‖² over the ball",
    shares=("ball",),
    sees="weights",
)
RUNGS = table(
    Formula(
        name="L1",
        bound=Ladder.trace,
        guarantee="upper",
        needs=_GRADIENTS,
        short="the point and K gradients",
        formula="tr F",
        shares=("rows",),
    ),
    Formula(
        name="L2",
        bound=Ladder.widest,
        guarantee="upper",
        needs=_GRADIENTS,
        short="the point and K gradients",
        formula="{cap} · {apart}²",
        shares=("rows",),
    ),
    Formula(
        name="L3",
        bound=Ladder.features,
        guarantee="upper",
        needs="the point, the gradient of every feature there, and the last layer's weights",
        short="the point, the features’ Jacobian",
        formula="{cap} · {width}² · ‖J_h(x)‖²",
        shares=("features",),
    ),
    Formula(
        name="L4",
        bound=Ladder.local,
        guarantee="upper",
        needs="the point's probabilities, the weights, and one pass at the point for what the layers see there",
        short="the prediction and the weights",
        formula="{cap} · {width}² · L_h²",
        shares=("local", "weights", "logits"),
        sees="weights",
        last="{cap} · {width}² takes the place of the last layer’s ‖W‖²",
    ),
    Formula(
        name="L5",
        bound=lambda ladder: ladder.weights_only(1.0, "spread"),
        guarantee="upper",
        needs=f"{_WEIGHTS}; it holds at every point",
        short="the weights only",
        formula="{limit} · {width}² · L_h²",
        shares=("weights",),
        sees="weights",
        last="{limit} · {width}² takes the place of the last layer’s ‖W‖²",
    ),
    Formula(
        name="L6",
        bound=lambda ladder: ladder.weights_only(2.0, "norm"),
        guarantee="upper",
        needs=f"{_WEIGHTS}, of the last layer its norm alone; it holds at every point",
        short="the weights only",
        formula="{whole} · L_h²",
        shares=("weights",),
        sees="weights",
        last="{turn}",
    ),
    Formula(
        name="lower-pair",
        bound=lambda ladder: (ladder.rows.log_pair / math.log(10) - SPARE, ""),
        guarantee="lower",
        needs="the point, and the gradients of two logits there; of all, to take the best pair",
        short="the point and K gradients",
        formula="the largest {pair}",
        shares=("rows",),
    ),
    Formula(
        name="lower-trace",
        bound=lambda ladder: (lower_trace(ladder.rows, ladder.x[0].numel()), ""),
        guarantee="lower",
        needs="the point, and the trace and the Frobenius norm of F there",
        short="the point and K gradients",
        formula="the larger of tr F / rank and ‖F‖²_F / tr F",
        shares=("rows",),
    ),
)
