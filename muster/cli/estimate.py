"""`muster estimate`: what mining a run takes and costs, before anything is rented."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

from muster.cli.options import JsonOption
from muster.estimate.figures import Figure, Prices, estimate_mining
from muster.estimate.machine import HERE, look_here, parse_machine
from muster.run.specs import find_template

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def estimate(
    what: Annotated[str, typer.Argument(help="A preset's name, a template ending in .toml, or a run's folder or URL.")],
    machine: Annotated[
        str, typer.Option(help="here, or what is known of another: step=SECONDS or tflops=RATE, memory=GIB.")
    ] = HERE,
    block_seconds: Annotated[
        float | None,
        typer.Option(min=0.001, help="How long a block of the chain lasts. [default: Bittensor's 12]"),
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="The machine's rent.")] = None,
    price_per_gb: Annotated[float | None, typer.Option(min=0, help="Traffic out of it; 0 where it is free.")] = None,
    slot_price: Annotated[float | None, typer.Option(min=0, help="Registering; btcli shows it.")] = None,
    days: Annotated[float, typer.Option(min=0.001, help="Over how many days the slot's price is spread.")] = 30.0,
    emission: Annotated[
        float | None, typer.Option(min=1e-9, help="What all miners of the subnet earn a day, in the same currency.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what mining a run takes and costs: hours, traffic, memory, break-even; each figure with its source."""
    template = find_template(what)
    found = look_here(template) if machine == HERE else parse_machine(machine, template)
    prices = Prices(price_per_hour, price_per_gb, slot_price, emission, days)
    figures = estimate_mining(template, found, prices, block_seconds)
    if as_json:
        typer.echo(json.dumps({"name": template.name, "figures": [figure.to_json_object() for figure in figures]}))
        return
    typer.echo(f"Mining {template.name}")
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        typer.echo(f"  {figure.name:<{width}}  {shown(figure):>16}  {figure.source}")


def shown(figure: Figure) -> str:
    """A figure's value for people: bytes in the unit that suits them, four digits, thousands apart."""
    if figure.value is None:
        return "–"
    value, unit = figure.value, figure.unit
    if unit == "B":
        power = min(int(math.log(max(value, 1), 1000)), len(_UNITS) - 1)
        value, unit = value / 1000**power, _UNITS[power]
    number = f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
    return f"{number} {unit}".strip()
