"""What is noted is read again as it was, by this release and in part by others; docs and code name the same events."""

from __future__ import annotations

import ast
import importlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.node.telemetry import events
from muster.node.telemetry.events import EVENTS, Event, RoundEvent
from muster.node.telemetry.journal import Noted, Skipped, parse, to_json
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.ledger.round import Instruction, Phase

ROOT = Path(__file__).parents[3]
KINDS = sorted(EVENTS.values(), key=lambda kind: kind.name)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.builds(Noted, TIMES, st.sampled_from(KINDS).flatmap(st.from_type))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

YESTERDAY = {
    '{"time":1.5,"event":"started","role":"miner","pid":7}': events.Started("miner", 7),
    '{"time":1.5,"event":"recorded","round":2,"record":"ab"}': events.Recorded(2, "ab"),
    '{"time":1.5,"event":"weights","round":2,"weights":{"3":65535}}': events.Weights(2, {3: 65535}),
    '{"time":1.5,"event":"seal_refused","round":2,"seal":"ab","problem":"too old"}': events.SealRefused(
        2, "ab", "too old"
    ),
    '{"time":1.5,"event":"heldout","round":2,"loss":NaN}': events.Heldout(2, float("nan")),
    '{"time":1.5,"event":"applied","round":2,"kind":"round","root":"ab","outer_step":3,"accepted":["5A"],'
    '"rejected":{"5B":"key_missing"},"bytes_up":1,"bytes_down":2}': events.Applied(
        2, "round", "ab", 3, accepted=("5A",), rejected={"5B": "key_missing"}, bytes_up=1, bytes_down=2
    ),
    '{"time":1.5,"event":"transition","round":2,"block":9,"what":"Failed","phase":"reveal","given":["publish_key"],'
    '"instruction":"publish_key","problem":"no space"}': events.Transition(
        2, 9, "Failed", Phase.REVEAL, (Instruction.PUBLISH_KEY,), Instruction.PUBLISH_KEY, "no space"
    ),
}  # fmt: skip


class TestLines:
    @given(ANY)
    def test_what_is_noted_is_read_again(self, noted: Noted) -> None:
        line = to_json(noted)
        again = parse(line.encode())
        assert repr(again) == repr(noted)  # a loss may be no number, and that equals nothing
        assert "\n" not in line

    @pytest.mark.parametrize("line", YESTERDAY, ids=lambda line: json.loads(line)["event"])
    def test_lines_of_the_first_release_are_read_and_written_as_they_were(self, line: str) -> None:
        assert repr(parse(line.encode())) == repr(Noted(1.5, YESTERDAY[line]))
        assert to_json(Noted(1.5, YESTERDAY[line])) == line

    @given(ANY, st.dictionaries(st.text(min_size=1, max_size=8), JSON, max_size=3))
    def test_further_facts_of_a_later_release_are_passed_over(self, noted: Noted, more: dict[str, Any]) -> None:
        entry = json.loads(to_json(noted))
        own = {"time", "event", *(field.name for field in fields(type(noted.event)))}  # type: ignore[arg-type]
        entry |= {name: fact for name, fact in more.items() if name not in own}
        assert repr(parse(json.dumps(entry).encode())) == repr(noted)

    @given(ANY, st.data())
    def test_a_cut_line_is_passed_over(self, noted: Noted, data: st.DataObject) -> None:
        line = to_json(noted).encode()
        assert parse(line[: data.draw(st.integers(0, len(line) - 1))]) is Skipped.CUT

    @given(st.binary(max_size=60))
    def test_bytes_that_are_nothing_are_passed_over(self, data: bytes) -> None:
        assert isinstance(parse(data), Skipped)

    @given(ANY, st.data())
    def test_a_fact_of_another_type_is_a_wrong_line_and_no_crash(self, noted: Noted, data: st.DataObject) -> None:
        entry = json.loads(to_json(noted))
        name = data.draw(st.sampled_from(sorted(entry.keys() - {"event"})))
        entry[name] = data.draw(JSON)
        found = parse(json.dumps(entry).encode())
        assert found is Skipped.WRONG or isinstance(found, Noted)
        if isinstance(found, Noted):
            assert json.loads(to_json(found)).keys() <= entry.keys()

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_every_fact_must_be_there_and_of_its_type(self, kind: type[Event]) -> None:
        assert parse(json.dumps({"time": 1, "event": kind.name}).encode()) is Skipped.WRONG
        wrong = {field.name: {"no": "fact"} for field in fields(kind)}  # type: ignore[arg-type]
        assert parse(json.dumps({"time": 1, "event": kind.name, **wrong}).encode()) is Skipped.WRONG

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b'{"time":1,"event":"of_a_later_release","round":1}', Skipped.UNKNOWN),
            (b'{"time":1,"event":"key","round":true}', Skipped.WRONG),
            (b'{"time":1,"event":"key","round":1.0}', Skipped.WRONG),
            (b'{"time":"1","event":"key","round":1}', Skipped.WRONG),
            (b'{"time":NaN,"event":"key","round":1}', Skipped.WRONG),
            (b'{"event":"key","round":1}', Skipped.WRONG),
            (b'{"time":1,"event":"key","round":1,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", Skipped.CUT),
            (b"[1]", Skipped.CUT),
            (b"\xff\xfe", Skipped.CUT),
            (b"", Skipped.CUT),
        ],
    )
    def test_why_a_line_is_passed_over(self, line: bytes, why: Skipped) -> None:
        assert parse(line) is why

    def test_what_is_no_text_is_written_so_that_it_can_be_read(self) -> None:
        found = parse(to_json(Noted(1.0, events.Trouble(1, problem="a file named \udc80"))).encode())
        assert found == Noted(1.0, events.Trouble(1, problem="a file named ?"))


class TestClasses:
    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    @given(st.data())
    def test_everything_can_be_said(self, kind: type[Event], data: st.DataObject) -> None:
        event = data.draw(st.from_type(kind))
        assert event.said() or event == events.Trouble(event.round, problem="")

    def test_unless_it_is_said_better_the_docstring_says_it(self) -> None:
        assert events.Training(1).said() == "began to train"
        assert events.Key(1).said() == "showed its key"

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_the_docstring_names_every_fact(self, kind: type[Event]) -> None:
        facts = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        if issubclass(kind, RoundEvent):
            assert facts.pop(0) == "round"
        named = re.findall("`([a-z_]+)`", kind.__doc__ or "")
        rows = [field.name for field in fields(ScoreRow)] if kind is events.Scored else []
        assert sorted(set(named) - set(rows)) == sorted(facts)

    def test_an_event_does_not_change_and_takes_no_fact_it_has_not(self) -> None:
        key = events.Key(1)
        with pytest.raises(AttributeError):
            key.round = 2  # type: ignore[misc]
        assert not hasattr(key, "__dict__")


def test_every_event_is_noted_somewhere() -> None:
    made = set()
    for path in (path for room in ("node", "validator", "muster") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="events"), attr=name)):
                    made.add(name)
    assert [kind.__name__ for kind in KINDS if kind.__name__ not in made] == []


def test_the_operators_page_has_the_table_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change run `docs/make_events.py`, which writes it again."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    table: str = importlib.import_module("make_events").table()
    assert table in (ROOT / "docs" / "operations.md").read_text()
