"""A node's facts as Prometheus metrics, in a registry of their own: two nodes in one process never mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from muster.node.telemetry.facts import ACCEPTED, KINDS, Facts
from muster.protocol.columns import Kind, columns_of
from muster.protocol.incentive.row import ScoreRow

_MEASURES = [
    column for column in columns_of(ScoreRow) if column.name != "uid" and column.kind not in (Kind.KEY, Kind.SLUG)
]
"""What is told of each peer: every column of a score row that is a number, but the one that says whose it is."""


class NodeCollector(Collector):
    """The facts as Prometheus metrics; what is not known yet has no sample."""

    def __init__(self, facts: Facts, about: Mapping[str, str], healthy: Callable[[], bool]) -> None:
        """`about` are the labels of `muster_info`."""
        self._facts = facts
        self._about = about
        self._healthy = healthy

    def collect(self) -> list[Metric]:
        """All metrics as of now."""
        healthy = self._healthy()
        with self._facts.lock:
            return [*self._state(healthy), *self._counts(), *self._peers()]

    def _state(self, healthy: bool) -> Iterator[Metric]:
        facts = self._facts
        yield InfoMetricFamily("muster", "What runs here.", {**self._about, "role": facts.role, "hotkey": facts.hotkey})
        yield _gauge("muster_healthy", "Whether /healthz says so: 1 or 0.", float(healthy))
        yield _gauge("muster_round", "The open round.", facts.round)
        yield _gauge("muster_outer_step", "Records that changed the weights.", facts.outer_step)
        yield _gauge("muster_block", "The newest block seen.", facts.block)
        yield _gauge("muster_block_seen_timestamp_seconds", "When it was seen (unix).", facts.block_seen or None)
        yield _gauge("muster_applied_timestamp_seconds", "When the newest record was applied (unix).", facts.applied)
        yield _gauge("muster_inner_loss", "Mean loss of the newest training (nat/token).", facts.inner_loss)
        yield _gauge("muster_heldout_loss", "Newest loss on held-out text (nat/token).", facts.heldout_loss)
        yield _gauge("muster_ailing", "Things of its own that cannot be written now.", len(facts.ailing))
        yield _gauge("muster_weights_round", "The round whose weights were set on chain last.", facts.weights_round)

    def _counts(self) -> Iterator[Metric]:
        facts = self._facts
        kinds = {(kind,): facts.records[kind] for kind in KINDS}
        yield _counter("muster_records", "Records applied.", ("kind",), kinds)
        yield _counter(
            "muster_submissions",
            "Submissions in applied records, by everybody.",
            ("result", "reason"),
            {(ACCEPTED, ""): 0, **facts.submissions},
        )
        yield _counter(
            "muster_own_submissions",
            "Submissions in applied records, by this hotkey.",
            ("result", "reason"),
            {(ACCEPTED, ""): 0, **facts.own},
        )
        yield _counter("muster_submitted", "Submissions put into the own bucket.", (), {(): facts.submitted})
        yield _counter("muster_refused", "Anchored records that were not valid here.", (), {(): facts.refused})
        yield _counter("muster_inner_seconds", "Seconds of inner steps.", (), {(): facts.inner_seconds})
        moved = {("up",): facts.bytes_up, ("down",): facts.bytes_down}
        yield _counter("muster_bytes", "Bytes of objects moved until the newest record.", ("direction",), moved)
        yield _counter("muster_store_errors", "Failed requests to object stores.", (), {(): facts.store_errors})
        yield _counter("muster_journal_lines_lost", "Lines that the journal has lost.", (), {(): facts.lines_lost})
        yield _counter("muster_chain_errors", "Failed requests for the newest block.", (), {(): facts.chain_errors})

    def _peers(self) -> Iterator[Metric]:
        for column in _MEASURES:
            about = column.about
            text = f"{about.meaning[0].upper()}{about.meaning[1:]}{f' ({about.unit})' if about.unit else ''}."
            family = GaugeMetricFamily(f"muster_peer_{column.name.removeprefix('peer_')}", text, labels=("uid",))
            for peer in self._facts.peers:
                value = getattr(peer, column.name)
                if value is not None:
                    family.add_metric((str(peer.uid),), value)
            yield family


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric((), value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def registry_of(facts: Facts, about: Mapping[str, str], healthy: Callable[[], bool]) -> CollectorRegistry:
    """A registry of this node alone, with the process's own memory, time and files."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(facts, about, healthy))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """The registry in Prometheus' text format. Reads files of /proc."""
    return generate_latest(registry)
