"""The models that can be trained, by `model.family` of the spec.

`muster.protocol.spec.families` says which families there are and what their tensors are; the module of this package
that has a family's name computes with them and exports its class as `MODEL`. The names of its tensors are those of
the field's own checkpoints, so an export needs no map.
"""

from __future__ import annotations

import importlib

from muster.node.models.language_model import LanguageModel
from muster.protocol.spec import ModelSpec

__all__ = ["LanguageModel", "model_class"]


def model_class(spec: ModelSpec) -> type[LanguageModel]:
    """The class of the spec's family; a spec names only families that there are."""
    found: type[LanguageModel] = importlib.import_module(f"{__name__}.{spec.family}").MODEL
    return found
