"""The agreement itself: presets load, one spec has one byte string, anything else is named and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import tomli_w
from blake3 import blake3
from builders import identity, run_spec
from pydantic import ValidationError

from muster.protocol.errors import ConfigError, ProtocolMismatch
from muster.protocol.spec import ChainSpec, OuterSpec, RunSpec, load_template, preset_names
from muster.protocol.spec.layout import layout_of
from muster.protocol.types import Origin

PARAMETERS = {
    "tiny": 329_376,
    "150m": 151_181_184,
    "512m": 512_398_848,
    "1b": 1_235_814_400,
    "8b": 8_030_261_248,
    "72b": 72_747_327_488,
}
"""1b and 8b are the published counts of the Llama models of that shape; 72b is arXiv 2603.08163's."""


def test_presets_are_the_documented_ones() -> None:
    assert set(preset_names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_preset(name: str) -> None:
    template = load_template(name)
    assert template.name == name
    assert layout_of(template.model).parameters == PARAMETERS[name]
    assert template.inner.warmup < template.inner.total
    assert template.inner.final_lr <= template.inner.lr
    assert 0 < template.clock.min_submissions <= template.gauntlet.seats
    assert template.model.heads * template.model.head_dim >= template.model.hidden


def test_the_papers_presets_have_the_papers_values() -> None:
    small, large = load_template("512m"), load_template("72b")
    assert (small.model.hidden, small.model.layers, small.model.heads, small.model.ffn) == (
        1536,
        12,
        12,
        5440,
    )
    assert (small.inner.steps, small.inner.batch, small.inner.lr, small.sparse.k) == (15, 256, 1e-3, 32)
    assert (large.inner.steps, large.inner.batch, large.inner.lr, large.sparse.k) == (30, 192, 1.2e-4, 64)
    assert large.inner.total == 6190 * large.inner.steps


def test_canonical_round_trip() -> None:
    spec = run_spec()
    data = spec.canonical()
    assert data == rfc8785.dumps(json.loads(data))
    assert RunSpec.from_bytes(data) == spec
    assert spec.run_id() == blake3(b"muster/spec/v2" + data).digest()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b" ",
        lambda data: data.replace(b'"eps":1e-8', b'"eps":1E-8'),
        lambda data: data.replace(b'{"clock"', b'{"clock":{},"clock"'),
        lambda data: json.dumps(json.loads(data), sort_keys=True).encode(),
    ],
)
def test_another_spelling_of_the_same_spec_is_refused(spoil: Any) -> None:
    data = run_spec().canonical()
    assert spoil(data) != data
    with pytest.raises(ConfigError, match="canonical form"):
        RunSpec.from_bytes(spoil(data))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"name":"x"}'])
def test_what_is_no_spec_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="not valid"):
        RunSpec.from_bytes(data)


def of_protocol(number: int | None) -> bytes:
    document = json.loads(run_spec().canonical())
    del document["protocol"], document["genesis"]["chain"]
    return rfc8785.dumps(document if number is None else document | {"protocol": number})


@pytest.mark.parametrize(
    ("number", "advice"), [(None, "with the release of Muster that it was made with"), (3, "look for a newer release")]
)
def test_a_spec_of_another_protocol_is_refused_in_a_sentence_of_its_own(number: int | None, advice: str) -> None:
    with pytest.raises(ProtocolMismatch, match=f"speaks protocol {number or 1} and this release 2: .*{advice}"):
        RunSpec.from_bytes(of_protocol(number))


CHAIN = Origin("bittensor", bytes(range(32)), 7, 1000)


def test_a_spec_knows_its_chain_from_every_other() -> None:
    spec = ChainSpec.of(CHAIN)
    spec.check(CHAIN)
    others = {"kind": "local", "genesis": bytes(32), "netuid": 8, "registered": 1001}
    for name, value in others.items():
        with pytest.raises(ConfigError, match="the run stands on subnet 7, registered in block 1000, of the bittensor"):
            spec.check(replace(CHAIN, **{name: value}))


def leaves(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(section, key) for section, fields in document.items() if isinstance(fields, dict) for key in fields]


def other(value: Any) -> Any:
    """A value of the same type that is not `value`, valid wherever `value` is in the small spec."""
    match value:
        case bool():
            return not value
        case int():
            return value * 2
        case float():
            return value / 2
        case str():
            return "cd" * 32 if len(value) == 64 else identity("somebody").hotkey
        case {"momentum": share}:
            return value | {"momentum": share / 2}
        case {"registered": block}:
            return value | {"registered": block + 1}
        case [[first, alpha]]:
            return [[first, alpha / 2]]
        case list():
            return [*value, identity("somebody").hotkey]
    raise AssertionError(value)


SINGLE = {("model", "family"), ("sparse", "codec"), ("data", "tokenizer")}
"""Fields that have one legal value today."""
NAMED = [
    ("outer", "rule", "mean"),
    ("outer", "rule", "sender_mean"),
    ("inner", "optimizer", "muon"),
    ("gauntlet", "mu_rule", "sign"),
    ("gauntlet", "rating", "openskill"),
    ("gauntlet", "rating", "ordinal"),
    ("gauntlet", "idle", "gauntlet"),
    ("outer", "age_weights", [0.5]),
]
"""Fields whose values are names, or that are left out where they are empty, and other values than the small spec's."""
ENDLESS = {"schedule": "inverse_sqrt", "total": 0}
TOGETHER = [ENDLESS, ENDLESS | {"decay_steps": 7}, ENDLESS | {"decay_steps": 7, "decay_from": 3}]
"""Of the section `inner`: fields that are valid together only."""


def test_a_spec_of_the_first_format_is_refused_in_one_sentence() -> None:
    document = json.loads(run_spec().canonical())
    for later in ("seal_age", "evaluate"):
        del document["clock"][later]
    with pytest.raises(ConfigError, match=r"^the run spec is of a run of format 1; this release reads format 2$"):
        RunSpec.from_bytes(rfc8785.dumps(document))


def test_what_is_measured_is_not_known_while_a_seal_can_be_answered() -> None:
    with pytest.raises(ValidationError, match="evaluate must exceed seal_age"):
        run_spec(clock={"seal_age": 5, "evaluate": 5})


def test_every_field_changes_the_run_id() -> None:
    spec = run_spec()
    ids = {spec.run_id(), spec.model_copy(update={"name": "other"}).run_id()}
    changed = 2
    for fields in TOGETHER:
        document = spec.model_dump(mode="json")
        document["inner"] |= fields
        ids.add(RunSpec.model_validate_json(json.dumps(document)).run_id())
        changed += 1
    for section, key, value in NAMED:
        document = spec.model_dump(mode="json")
        document[section][key] = value
        ids.add(RunSpec.model_validate_json(json.dumps(document)).run_id())
        changed += 1
    for section, key in leaves(spec.model_dump(mode="json")):
        if section == "inner" and key in ("schedule", "decay_from"):
            continue
        if (section, key) in SINGLE | {(section, key) for section, key, _ in NAMED}:
            continue
        document = spec.model_dump(mode="json")
        document[section][key] = 1 if document[section][key] == 0 else other(document[section][key])
        document["model"]["context"] *= 2 if key == "window" else 1
        ids.add(RunSpec.model_validate_json(json.dumps(document)).run_id())
        changed += 1
    assert len(ids) == changed > 50


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("model", {"colour": 1}, "unknown key model.colour"),
        ("model", {"heads": 3, "kv_heads": 2}, "model: heads must be a multiple of kv_heads"),
        ("model", {"head_dim": 7}, "model: head_dim must be even"),
        ("model", {"family": "gpt"}, "model.family"),
        ("inner", {"optimizer": "sgd"}, "inner.optimizer"),
        ("outer", {"rule": "median"}, "outer.rule"),
        ("model", {"hidden": 0}, "model.hidden"),
        ("model", {"hidden": 96.0}, "model.hidden"),
        ("model", {"init_std": float("nan")}, "model.init_std"),
        ("sparse", {"k": 4097}, "sparse.k"),
        ("outer", {"alpha": []}, "outer: alpha must be a table"),
        ("outer", {"age_weights": [0.5, 0.75]}, "outer: age_weights must not increase"),
        ("outer", {"age_weights": [0.1]}, "outer: age_weights must be float32 numbers"),
        ("outer", {"age_weights": [1.5]}, "outer.age_weights.0: Input should be less than or equal to 1"),
        ("outer", {"age_weights": [-0.5]}, "outer.age_weights.0: Input should be greater than or equal to 0"),
        ("outer", {"age_weights": [1.0, 0.5, 0.25, 0.125]}, "outer.age_weights: Tuple should have at most 3 items"),
        ("outer", {"alpha": [[1, 1.0]]}, "outer: alpha must be a table"),
        ("outer", {"alpha": [[0, 1.0], [5, 0.5], [5, 0.4]]}, "outer: alpha must be a table"),
        ("clock", {"min_blocks": 11, "deadline": 10}, "clock: min_blocks must not exceed deadline"),
        ("clock", {"min_submissions": 21}, "clock.min_submissions must not exceed gauntlet.seats"),
        ("data", {"window": 129}, "data.window must not exceed model.context"),
        ("data", {"manifest": "xyz"}, "data.manifest"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, section: str, fields: dict[str, Any], message: str) -> None:
    document = load_template("tiny").model_dump(mode="json")
    document[section] |= fields
    path = tmp_path / "template.toml"
    path.write_text(tomli_w.dumps(document))
    with pytest.raises(ConfigError) as caught:
        load_template(str(path))
    assert message in str(caught.value)


def test_a_template_file_equals_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "copy.toml"
    path.write_text(tomli_w.dumps(load_template("tiny").model_dump(mode="json")))
    assert load_template(str(path)) == load_template("tiny")


def test_names_and_files_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'huge'; there are: 150m, 1b, 512m, 72b, 8b, tiny"):
        load_template("huge")
    with pytest.raises(ConfigError, match="cannot read the template"):
        load_template(str(tmp_path / "missing.toml"))
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_template(str(tmp_path / "broken.toml"))
    (tmp_path / "binary.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_template(str(tmp_path / "binary.toml"))


def test_alpha_table() -> None:
    outer = OuterSpec.model_validate(
        {"rule": "mean", "alpha": [[0, 1.0], [10, 0.5], [20, 0.25]], "scale_cap": 0.0, "norm_clip": False}
    )
    assert [outer.alpha_at(step) for step in (0, 9, 10, 19, 20, 10**6)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_ages() -> None:
    outer = OuterSpec.model_validate({"scale_cap": 0.0, "norm_clip": False, "age_weights": [0.5, 0.25]})
    assert [outer.age_weight(age) for age in range(-1, 4)] == [0.0, 1.0, 0.5, 0.25, 0.0]
    assert outer.max_age == 2


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_takes_late_work_and_no_spec_without_it_says_so(name: str) -> None:
    template = load_template(name)
    assert template.outer.max_age == 0
    assert "age_weights" not in template.outer.model_dump(mode="json")
    without = run_spec().canonical()
    assert b"age_weights" not in without
    spelt = json.loads(without)
    spelt["outer"]["age_weights"] = []
    with pytest.raises(ConfigError, match="not in canonical form"):
        RunSpec.from_bytes(rfc8785.dumps(spelt))


def test_a_spec_cannot_be_changed() -> None:
    spec = run_spec()
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]
