"""Networks by name, and the description that makes a model file usable on its own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from bt.config import Config, ConfigError, ModelConfig, change
from bt.data.labels import LabelError, LabelTable
from bt.modelfile import BadModelFile
from bt.quicknat import QuickNAT
from bt.weights import FlatWeights, schema_of
from transports.schema import Schema


def build(model: ModelConfig, classes: int, seed: int) -> nn.Module:
    """A network with `classes` outputs (background included), the same for the same seed.

    `model.name` is "quicknat" or package.module:factory, called as factory(classes=..,
    filters=..); it maps (B, 1, H, W) to logits (B, classes, H, W).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.name == "quicknat":
            return QuickNAT(classes=classes, filters=model.filters)
        network = _factory(model.name)(classes=classes, filters=model.filters)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model {model.name} made a {type(network).__name__}, not a Module")
    return network


def _factory(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"model {name!r}: expected quicknat or package.module:factory")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"model {name}: {exc}") from exc
    try:
        inspect.signature(factory).bind(classes=2, filters=1)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"model {name}: no factory(classes=.., filters=..): {exc}") from exc
    return factory


def describe(config: Config, labels: LabelTable) -> dict[str, Any]:
    """What a reader of the model file must know: network, structures, preprocessing."""
    return {
        "format": 1,
        "model": asdict(config.model),
        "labels": labels.as_json(),
        "view": config.data.view,
        "spacing_mm": config.data.spacing_mm,
        "seed": config.seed,
    }


def task_hash(schema: Schema, description: dict[str, Any]) -> str:
    """SHA-256 of what peers must have in common for their average to mean something.

    That is the tensors; which structure each class is; how scans are seen; and the seed of the
    weights that all start from. `description` is as `describe` makes it. Raises BadModelFile.
    """
    structures = LabelTable.from_json(description["labels"]).structures[1:]
    view, spacing_mm = seen_as(description)
    seen = [view, spacing_mm and float(spacing_mm), description.get("seed")]
    return hashlib.sha256(json.dumps([schema.hash, seen, *structures]).encode()).hexdigest()


def restore(
    weights: FlatWeights, description: dict[str, Any], factory: str | None = None
) -> tuple[nn.Module, LabelTable]:
    """The network of a model file, with its weights, and the table of its structures.

    A file never decides which code runs: a network other than QuickNAT must be named by the
    user, as `factory`. Raises BadModelFile.
    """
    try:
        model = change(Config(), description["model"]).model  # checked like any setting
        labels = LabelTable.from_json(description["labels"])
    except (KeyError, TypeError, AttributeError, ConfigError, LabelError) as exc:
        raise _unreadable(exc) from exc
    if model.name != "quicknat" and factory is None:
        raise BadModelFile(
            f"its network is {model.name!a:.80}: if you trust that code, name it with "
            "--model package.module:factory"
        )
    model = ModelConfig(factory or model.name, model.filters)
    with torch.device("meta"):  # without memory: the file may claim any size
        mine = schema_of(build(model, labels.classes, seed=0).state_dict())
    if mine != weights.schema:
        raise BadModelFile(f"the weights don't fit the network: {mine.difference(weights.schema)}")
    network = build(model, labels.classes, seed=0)
    weights.load_into(network)
    return network, labels


def seen_as(description: dict[str, Any]) -> tuple[str, float | None]:
    """The view and the voxel size that a model was trained on. Raises BadModelFile."""
    try:
        stated = {"view": str(description["view"]), "spacing_mm": description["spacing_mm"]}
        data = change(Config(), stated).data
    except (KeyError, ConfigError) as exc:
        raise _unreadable(exc) from exc
    return data.view, data.spacing_mm


def _unreadable(why: Exception) -> BadModelFile:
    """One short line; `why` may quote anything that a stranger wrote into the file."""
    missing = "no " if isinstance(why, KeyError) else ""
    reason = missing + " ".join(str(why).split())[:200]
    return BadModelFile(f"the model's description can't be read: {reason}")
