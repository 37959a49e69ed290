"""What strangers hand over as a model: what it is, what to do where it is none, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad

_QUERY = "if it can only be asked, fv.BlackBox({}), which fv.spectrum and fv.compare_bounds take"
_WRAPPERS = {  # of torch and of its libraries: the name of the module inside
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
    "ModelEma": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
}


def no_module(given: Any) -> str:
    """What came in place of a module, and what to do; libraries are known by their names and not imported."""
    kind, library = type(given).__name__, type(given).__module__.partition(".")[0]
    expected = "expected a torch.nn.Module that returns logits"
    if isinstance(given, type):
        return f"{expected}, got the class {given.__name__}: make one of it, {given.__name__}(...)"
    if isinstance(given, str | PathLike):
        return f"{expected}, got {str(given)!r}: load it, for instance fv.from_torchvision('resnet18')"
    if isinstance(given, Mapping):
        if any(isinstance(v, Tensor) for v in given.values()):
            return f"{expected}, got weights (a {kind} of tensors): build the network and model.load_state_dict(...)"
        inner = [key for key in ("model", "state_dict") if key in given]
        hint = f": look at its {inner[0]!r}" if inner else ""
        return f"{expected}, got a {kind} of {', '.join(map(str, list(given)[:4]))}{hint}"
    if library == "fimviz" and kind == "BlackBox":
        return (
            "got a BlackBox, which gives answers and no gradients, and this needs gradients: fv.spectrum and "
            "fv.compare_bounds take one, and fv.spectrum(box, images).view() shows it"
        )
    if library == "fimviz" and kind == "Classifier":
        return f"{expected}, got a Classifier: it is one already, or pass its .model"
    if library == "onnxruntime":
        return f"{expected}, got an ONNX {kind}: " + _QUERY.format(
            "lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]"
        )
    if library == "onnx":
        return f"{expected}, got a {kind} of onnx: open it with onnxruntime and pass a fv.BlackBox of the session"
    if library == "transformers" and isinstance(getattr(given, "model", None), nn.Module):
        return f"{expected}, got a {kind}: fv.from_transformers(it.model, processor=it.image_processor)"
    if hasattr(given, "predict_proba"):
        return f"{expected}, got a {kind}: " + _QUERY.format(
            "lambda x: model.predict_proba(x.reshape(len(x), -1)), outputs='probabilities'"
        )
    if hasattr(given, "predict") and library == "sklearn":
        return f"{expected}, got a {kind} without predict_proba: labels alone have no Fisher information"
    if callable(given):
        name = f"the function {given.__name__}" if hasattr(given, "__name__") else f"a {kind}"
        return f"{expected}, got {name}: if torch can differentiate it, put it in a module; " + _QUERY.format("predict")
    if isinstance(given, list | tuple) and given and all(isinstance(one, nn.Module) for one in given):
        return f"{expected}, got a {kind} of {len(given)} modules: pass one, or torch.nn.Sequential(*layers)"
    return f"{expected}, got {kind}"


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers that change nothing about what it computes: parallel, averaged, compiled."""
    while (name := _WRAPPERS.get(type(model).__name__)) and isinstance(inner := getattr(model, name, None), nn.Module):
        model = inner
    return model


def called(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a module returns. A forward hook that asks for gradients of activations gets a pass that has some."""
    try:
        return model(*args, **kwargs)
    except RuntimeError as error:
        recorded = any(isinstance(a, Tensor) and a.requires_grad for a in args)
        if recorded or not any(words in str(error) for words in ("can't retain_grad", "cannot register a hook")):
            raise
    aliases = [a.view_as(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    with torch.enable_grad():  # of copies, which a first layer may work in
        inputs = [a.requires_grad_().clone() if a is not given else a for a, given in zip(aliases, args, strict=True)]
        return _unrecorded(model(*inputs, **kwargs))


def _unrecorded(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output if forward_ad.unpack_dual(output).tangent is not None else output.detach()
    if isinstance(output, Mapping):
        return {key: _unrecorded(value) for key, value in output.items()}
    return tuple(map(_unrecorded, output)) if isinstance(output, list | tuple) else output


_SHAPING = {  # backward functions of what moves, casts or clips values and computes nothing new
    *("Alias", "Cat", "Clamp", "ClampMax", "ClampMin", "Clone", "Expand", "Index", "Permute", "ReshapeAlias"),
    *("Select", "Slice", "Squeeze", "Stack", "T", "ToCopy", "Transpose", "Unsqueeze", "UnsafeView", "View"),
}


def last_operations(output: Tensor) -> set[str]:
    """What a tensor came out of last, by torch's names ("Sigmoid", "Softmax"), through views, casts, heads in a row."""
    found, nodes = set(), [output.grad_fn]
    while nodes:
        if (node := nodes.pop()) is None:
            continue
        kind = node.name().partition("Backward")[0]
        if kind in _SHAPING:
            nodes += [source for source, _ in node.next_functions]
        else:
            found.add(kind)
    return found


def operations(output: Tensor) -> set[str]:
    """All that a tensor came out of, by torch's names, except what moves, casts or clips."""
    seen, nodes = set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [source for source, _ in node.next_functions]
    return {node.name().partition("Backward")[0] for node in seen} - _SHAPING


def quantised(model: nn.Module) -> str:
    """What in a model computes in integers, which have no derivative; empty if nothing does."""
    for name, module in model.named_modules():
        where = type(module).__module__
        if where.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")):
            return f"{name} is a {type(module).__name__} of {where.rpartition('.nn.')[0]}"
        tensors = [*module._parameters.items(), *module._buffers.items()]
        if found := [key for key, t in tensors if t is not None and t.is_quantized]:
            return f"{name}.{found[0]} is quantised".lstrip(".")
        if isinstance(module, fx.GraphModule) and any("quantize" in str(node.target) for node in module.graph.nodes):
            return f"{name or type(module).__name__} quantises"
        if isinstance(module, torch.jit.ScriptModule) and "quantized::" in str(getattr(module, "inlined_graph", "")):
            return f"{name or 'its script'} quantises"
    return ""


def takes_tokens(model: nn.Module, images: Any) -> bool:
    """Whether these are token ids, or texts, for a model that looks them up in an embedding."""
    if isinstance(images, Mapping):
        return "input_ids" in images
    kind, rank = str(getattr(images, "dtype", "")), getattr(images, "ndim", 0)
    while isinstance(images, list | tuple) and images:
        images, rank = images[0], rank + 1
        kind = "int" if isinstance(images, int | str) else ""
    return "int" in kind and rank <= 2 and embeds(model)


def embeds(model: nn.Module) -> bool:
    """Whether a model looks something up in an embedding."""
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules())


def one_input(model: nn.Module, shape: tuple[int, ...]) -> str:
    """Whether a shape is that of one input without its batch axis, by the first layer with weights: of a batch, or ''.

    Only where no batch has this shape: a layer that reads one channel may be given images without a channel axis.
    """
    layers = (m for m in unwrapped(model).modules() if any(True for _ in m.parameters(recurse=False)))
    first = next(layers, None)
    for rank, kind in ((3, nn.Conv1d), (4, nn.Conv2d), (5, nn.Conv3d)):
        if isinstance(first, kind) and len(shape) == rank - 1 and shape[0] == first.in_channels != 1:
            return ", ".join(["n", *map(str, shape)])
    if isinstance(first, nn.Linear) and len(shape) > 1:
        size, each = 1, 1
        for i, side in enumerate(shape):
            size, each = size * side, each * (side if i else 1)
        if size == first.in_features and first.in_features not in (each, shape[-1]):
            return ", ".join(["n", *map(str, shape)])
    return ""
