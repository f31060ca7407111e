"""The table of what makes a spec valid, read off the very sections that refuse one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import AMENDABLE, NOT_YET


def table() -> str:
    """One row a field, in the order of the sections."""
    rows = ["| field | type | bounds | may be amended |", "|---|---|---|---|"]
    for path, info in _fields(RunSpec):
        kind, bounds = _kind(info.annotation, info.metadata)
        whole = path.rpartition(".")[0] if path.startswith("genesis.chain.") else path
        amended = "in a later release" if whole in NOT_YET else "yes" if whole in AMENDABLE else ""
        rows.append(f"| `{path}` | {kind} | {bounds} | {amended} |")
    return "\n".join(rows)


def _fields(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", info


def _kind(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [*metadata, *more])
    if get_origin(annotation) is Literal:
        return "one of" if len(get_args(annotation)) > 1 else "only", ", ".join(f"`{v}`" for v in get_args(annotation))
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        lengths = [f"at least {each.min_length}" for each in metadata if isinstance(each, MinLen)]
        lengths += [f"at most {each.max_length}" for each in metadata if isinstance(each, MaxLen)]
        if get_origin(inner) is tuple:
            return "list of pairs (integer ≥ 0, number ≥ 0)", " and ".join(lengths)
        kind, bounds = _kind(inner, [])
        return f"list of {kind}s" if kind == "number" else f"list of {kind}", " and ".join(
            filter(None, (bounds, *lengths))
        )
    name = {bool: "boolean", int: "integer", float: "number", str: "text"}[annotation]
    return name, " and ".join(_bounds(metadata))


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for each in metadata:
        match each:
            case Ge(ge=bound):
                yield f"≥ {bound}"
            case Gt(gt=bound):
                yield f"> {bound}"
            case Le(le=bound):
                yield f"≤ {bound}"
            case Lt(lt=bound):
                yield f"< {_power(bound)}"
            case _:
                pattern = getattr(each, "pattern", None)
                if pattern:
                    yield "64 hexadecimal digits" + (", or empty" if ")?$" in pattern else "")


def _power(bound: Any) -> str:
    return "2^53" if bound == 2**53 else "2^16" if bound == 2**16 else str(bound)
