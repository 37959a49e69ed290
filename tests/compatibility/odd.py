"""Networks that no library has: other inputs than images, other outputs than classes, other ways to be handed over."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

import fimviz as fv
from tests.compatibility.network import Network


def _cnn(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes))  # fmt: skip


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], classes: int, inputs: int = 16) -> None:
        super().__init__()
        self.layer, self.head = kind(inputs, 32, batch_first=True), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class _Text(nn.Module):
    """Over embeddings of tokens."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(x)).mean(1))


class _Bert(nn.Module):
    """A classifier of texts of Hugging Face, from the embeddings on."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            intermediate_size=64, num_labels=classes)  # fmt: skip
        self.bert = BertForSequenceClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.bert(inputs_embeds=x).logits


class _Tokens(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


class _Steep(torch.autograd.Function):
    """x², with the slope written down by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class _Custom(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(12, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Steep.apply(self.first(x)))


class _Careful(nn.Module):
    """Looks whether its input is finite."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> Tensor:
        if not x.isfinite().all():
            raise ValueError("an input is not finite")
        return self.body(x)


class _Fourier(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(33, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.rfft(x).abs())


class _Outputs(nn.Module):
    """A mapping with more than logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = _cnn(classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.body(x)
        return {"features": z.tanh(), "logits": z}


class _Forest(nn.Module):
    """A soft tree over columns of a table."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.split, self.leaves = nn.Linear(20, 4), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        p = self.split(x).sigmoid()
        reach = torch.ones_like(p[:, :1])
        for level in range(4):
            one = p[:, level : level + 1]
            reach = torch.cat([reach * one, reach * (1 - one)], 1)
        return self.leaves(reach)


class _Gated(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.glu, self.head = nn.Linear(20, 32), nn.GLU(), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.glu(self.first(x)))


class _Random(nn.Module):
    """Dropout that ignores evaluation mode."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = _cnn(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(nn.functional.dropout(x, 0.2, training=True))


def _table(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Linear(32, classes))


def _one_dimensional(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 8, 5, 2), nn.GELU(), nn.Conv1d(8, 16, 5, 2), nn.GELU(), nn.AdaptiveMaxPool1d(4),
                         nn.Flatten(), nn.Linear(64, classes))  # fmt: skip


def _weight_norm(classes: int) -> nn.Module:
    model = _cnn(classes)
    model[0] = nn.utils.parametrizations.weight_norm(model[0])
    model[3] = nn.utils.parametrizations.spectral_norm(model[3])
    return model


def _frozen(classes: int) -> nn.Module:
    model = _cnn(classes)
    for parameter in model[:-1].parameters():
        parameter.requires_grad_(False)
    return model


def _hooked(model: nn.Module) -> nn.Module:
    seen: list[Any] = []
    model[3].register_forward_hook(lambda m, args, out: seen.append(out.shape))
    return model


def _coupled(classes: int) -> nn.Module:
    model = _cnn(classes)
    model[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return model


def _quantised(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


def _exported(model: nn.Module) -> nn.Module:
    batch = ({0: torch.export.Dim.DYNAMIC},)
    return torch.export.export(model, (torch.rand(2, 3, 32, 32),), dynamic_shapes=batch, strict=False).module()


_FREE = {"input_range": None}
_IMAGE = (3, 32, 32)
NETWORKS = [
    Network("recurrent (LSTM)", "others", lambda k: _Recurrent(nn.LSTM, k), (12, 16), options=_FREE),
    Network("recurrent (GRU)", "others", lambda k: _Recurrent(nn.GRU, k), (12, 16), options=_FREE),
    Network("one-dimensional", "others", _one_dimensional, (2, 64), options=_FREE),
    Network("tabular", "others", _table, (20,), options=_FREE),
    Network("tabular, gated (GLU)", "others", _Gated, (20,), options=_FREE),
    Network("tabular, a soft tree", "others", _Forest, (20,), options=_FREE),
    Network("multi-label", "others", _cnn, _IMAGE, options={"likelihood": "bernoulli"}),
    Network(
        "one logit, yes or no", "others", lambda k: _cnn(1), _IMAGE, options={"likelihood": "bernoulli"}, classes=None
    ),
    Network(
        "regression", "others", lambda k: _cnn(3), _IMAGE, options={"likelihood": fv.Gaussian(sigma=0.5)}, classes=None
    ),
    Network("text over embeddings", "others", _Text, (6, 32), options=_FREE),
    Network("text over embeddings (BERT)", "others", _Bert, (6, 32), options=_FREE),
    Network("text over tokens", "others", _Tokens, (6,), options=_FREE, tokens=True),
    Network("scripted", "others", _cnn, _IMAGE, torch.jit.script),
    Network("traced by torch.jit", "others", _cnn, _IMAGE, lambda m: torch.jit.trace(m, torch.rand(2, *_IMAGE))),
    Network("compiled", "others", _cnn, _IMAGE, lambda m: torch.compile(m, backend="eager")),
    Network("exported", "others", _cnn, _IMAGE, _exported),
    Network("in DataParallel", "others", _cnn, _IMAGE, nn.DataParallel),
    Network("bfloat16", "others", _cnn, _IMAGE, lambda m: m.bfloat16()),
    Network("quantised", "others", _cnn, _IMAGE, _quantised),
    Network("weight norm, spectral norm", "others", _weight_norm, _IMAGE),
    Network("frozen backbone", "others", _frozen, _IMAGE),
    Network("with a forward hook", "others", _cnn, _IMAGE, _hooked),
    Network("a mapping of outputs", "others", _Outputs, _IMAGE),
    Network("custom autograd.Function", "others", _Custom, (12,), options=_FREE),
    Network("looks at its input's values", "others", _Careful, (12,), options=_FREE),
    Network("Fourier transform", "others", _Fourier, (64,), options=_FREE),
    Network("random in evaluation mode", "others", _Random, _IMAGE),
    Network("coupled by its batch", "others", _coupled, _IMAGE),
]
