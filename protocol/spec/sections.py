"""RunSpec: everything the participants of one run must agree on, and the digest of it that names the run.

A template (`presets/*.toml`) becomes a spec when genesis and the data manifest are filled in. Its canonical bytes
are RFC 8785 JSON; the run id is BLAKE3("muster/spec/v2" ‖ canonical bytes) of the *genesis* spec and never changes.
Later changes of a few fields arrive as signed amendments inside records: `SpecHistory.at(round)` is what all code asks.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import rfc8785
from blake3 import blake3
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from muster.protocol.errors import ConfigError, IdentityError, ProtocolMismatch
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.spec.families import FAMILIES, known_family
from muster.protocol.spec.gauntlet import GauntletSpec
from muster.protocol.spec.inner import InnerSpec
from muster.protocol.spec.outer import OuterSpec
from muster.protocol.spec.section import Natural, Positive, Rate, Section, Share
from muster.protocol.types import Origin

PROTOCOL: Final = 2
"""What docs/protocol.md describes. Specs of protocol 1 did not say a number."""

HEX32 = r"[0-9a-f]{64}"

MAX_LEADERS = 64
"""Aggregators that a run may list: each has a turn, and all of them may sign an amendment."""


class ModelSpec(Section):
    """A model of a family of `families`. Sizes are counts; `init_std` is the standard deviation of genesis weights."""

    family: Annotated[str, AfterValidator(known_family)] = "llama"
    vocab: Positive
    hidden: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    ffn: Positive
    context: Positive
    rope_theta: Rate
    norm_eps: Rate
    tied: bool
    init_std: Rate

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        FAMILIES[self.family].check(self)
        return self


class SparseSpec(Section):
    """What of a pseudo-gradient is sent: `k` entries of each tile, error feedback decayed by `error_decay` (β)."""

    codec: Literal[1] = 1
    k: Annotated[int, Field(ge=1, le=4096)]
    error_decay: Share


class ClockSpec(Section):
    """A round's time, in chain blocks counted from its opening.

    `reveal` and `grace` count from the seal: how long keys of expected peers are waited for, and how long those of
    anybody else, so that a stranger who never shows his key cannot hold up every round. `seal_age` is how old a seal's
    block may be for a miner to answer it, `evaluate` how many blocks after it the evaluation beacon is drawn: what is
    measured must not be known while a seal can still be made and answered. `anchor` counts from the end of all other
    waiting.

    The turn to close rounds passes on every `term` rounds; and within a round, `turn` blocks after another, from when
    its record is late. An aggregator without an anchor for `touch` blocks is not waited for. No round is sealed before
    the record `finality` rounds before it is final. Where a round has been late for `silent` blocks, who the owner
    names may close it (`ledger.rescue`).

    `delay` is by how many rounds the θ that work begins from is older than the one that it is applied to: with 1,
    miners train on while the last round closes.
    """

    min_blocks: Natural
    deadline: Positive
    reveal: Positive
    grace: Natural
    seal_age: Positive
    evaluate: Positive
    anchor: Positive
    term: Positive
    turn: Positive
    touch: Positive
    finality: Positive
    silent: Positive
    min_submissions: Positive
    checkpoint_every: Positive
    amend_delay: Positive
    delay: Annotated[int, Field(ge=0, le=1)] = 0

    @property
    def shortest(self) -> int:
        """The fewest blocks of a round: sealed when it may be, recorded in the block after."""
        return self.min_blocks + 1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_blocks > self.deadline:
            raise ValueError("min_blocks must not exceed deadline")
        if self.grace > self.reveal:
            raise ValueError("grace must not exceed reveal")
        if self.evaluate <= self.seal_age:
            raise ValueError("evaluate must exceed seal_age, or windows would be known before they may be")
        if self.touch < self.deadline + self.reveal + self.anchor:
            raise ValueError("touch must be no less than deadline + reveal + anchor: a long round's time")
        if self.silent < self.touch:
            raise ValueError("silent must be no less than touch: who is in touch may still close the round")
        return self


class DataSpec(Section):
    """The text: `window` tokens are one training sequence; `slots` is how many peers a round's windows are cut for."""

    tokenizer: Literal["bytes"] = "bytes"
    window: Positive
    slots: Positive
    windows: Natural = 0
    heldout: Natural = 0
    manifest: Annotated[str, Field(pattern=f"^({HEX32})?$")] = ""


class ChainSpec(Section):
    """Which chain and subnet the run stands on (`Origin`): who follows another one follows another run."""

    kind: Literal["local", "bittensor"]
    genesis: Annotated[str, Field(pattern=f"^{HEX32}$")]
    netuid: Annotated[int, Field(ge=0, lt=2**16)]
    registered: Natural

    @classmethod
    def of(cls, origin: Origin) -> ChainSpec:
        """The chain that says this of itself."""
        return cls.model_validate(
            {
                "kind": origin.kind,
                "genesis": origin.genesis.hex(),
                "netuid": origin.netuid,
                "registered": origin.registered,
            }
        )

    def check(self, origin: Origin) -> None:
        """Refuse a chain that is not this one.

        Raises:
            ConfigError: the sentence names both.
        """
        found = ChainSpec.of(origin)
        if found != self:
            raise ConfigError(
                f"the chain that answers is {found}, and the run stands on {self}; name an endpoint (or the file) of "
                "the run's own chain"
            )

    def __str__(self) -> str:
        subnet = f"subnet {self.netuid}, registered in block {self.registered}, of " if self.kind != "local" else ""
        return f"{subnet}the {self.kind} chain whose block 0 is {self.genesis[:16]}…"


class GenesisSpec(Section):
    """How the run begins: initial weights, the chain and its block round 0 opens at, A_0, the aggregators in turn (who
    also are the run's validators), the owner.

    Of an amended spec `leaders` is the list in force in its round; all else here stays as the run began.
    """

    seed: Natural
    chain: ChainSpec
    block: Natural = 0
    root: Annotated[str, Field(pattern=f"^{HEX32}$")]
    miners: tuple[str, ...]
    leaders: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_LEADERS)]
    owner: str

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        for listed in (self.miners, self.leaders, (self.owner,)):
            if len(set(listed)) != len(listed):
                raise ValueError("miners and leaders name each hotkey once")
            for hotkey in listed:
                try:
                    usual = hotkey_of(public_of(hotkey))
                except IdentityError as error:
                    raise ValueError(str(error)) from error
                if hotkey != usual:  # a key has an address in each network's format, and may be listed once
                    raise ValueError(f"{hotkey} is written for another network; here it is {usual}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = {
                key: tuple(value) if key in ("miners", "leaders") and isinstance(value, list) else value
                for key, value in data.items()
            }
        return data


class Template(Section):
    """A preset: a run spec without the genesis and the data that make it one particular run."""

    name: str
    model: ModelSpec
    inner: InnerSpec
    sparse: SparseSpec
    outer: OuterSpec
    gauntlet: GauntletSpec
    clock: ClockSpec
    data: DataSpec

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.data.window > self.model.context:
            raise ValueError("data.window must not exceed model.context")
        return self

    @model_validator(mode="after")
    def _seats_suffice(self) -> Self:
        if self.clock.min_submissions > self.gauntlet.seats:
            raise ValueError("clock.min_submissions must not exceed gauntlet.seats")
        return self


class RunSpec(Template):
    """The whole agreement of one run."""

    protocol: Literal[2] = PROTOCOL
    genesis: GenesisSpec

    @model_validator(mode="after")
    def _touch_lasts(self) -> Self:
        """Who follows in a late round must still be in touch when it closes it, or a leader that shows its record to
        nobody would soon be alone, and have it final."""
        clock, leaders = self.clock, len(self.genesis.leaders)
        longest = clock.deadline + clock.reveal + self.gauntlet.score_wait + clock.anchor
        if leaders > 1 and clock.touch < longest + leaders * clock.turn:
            raise ValueError(
                f"clock.touch must be no less than a long round and a turn for each of {leaders} leaders: "
                f"{longest} + {leaders} x {clock.turn} blocks"
            )
        return self

    def canonical(self) -> bytes:
        """RFC 8785 JSON of the spec: sorted keys, no white space, shortest numbers."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    def run_id(self) -> bytes:
        """32 bytes that name the run this (genesis) spec begins."""
        return blake3(b"muster/spec/v2" + self.canonical()).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> RunSpec:
        """Parse canonical bytes.

        Raises:
            ProtocolMismatch: a spec of another protocol than this release's.
            ConfigError: not JSON, not a spec, or not in canonical form.
        """
        _check_protocol(data)
        try:
            spec = cls.model_validate_json(data)
        except ValidationError as error:
            if any(
                problem["loc"] == ("clock", "evaluate") and problem["type"] == "missing" for problem in error.errors()
            ):
                raise ConfigError("the run spec is of a run of format 1; this release reads format 2") from error
            raise ConfigError(f"the run spec is not valid: {first_problem(error)}") from error
        if spec.canonical() != data:
            raise ConfigError("the run spec is not in canonical form (RFC 8785), so its run id is ambiguous")
        return spec


class _Versioned(BaseModel):
    """What is read of a spec before anything else of it is looked at."""

    model_config = ConfigDict(extra="ignore", strict=True)
    genesis: dict[str, Any]
    protocol: int = 1


def _check_protocol(data: bytes) -> None:
    """Refuse a spec of another protocol in a sentence of its own, rather than by the first field that differs."""
    try:
        found = _Versioned.model_validate_json(data).protocol
    except ValidationError:
        return  # no spec at all, which its own reader says better
    if found < PROTOCOL:
        raise ProtocolMismatch(
            f"this run speaks protocol {found} and this release {PROTOCOL}: take part with the release of Muster that "
            "it was made with, or begin it anew with `muster spec new`"
        )
    if found > PROTOCOL:
        raise ProtocolMismatch(
            f"this run speaks protocol {found} and this release {PROTOCOL}: look for a newer release of Muster"
        )


def first_problem(error: ValidationError) -> str:
    """One readable clause for the first thing pydantic found wrong."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def preset_names() -> list[str]:
    """The presets that ship with Muster, alphabetically."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("muster.protocol.spec.presets").iterdir()
        if entry.name.endswith(".toml")
    )


def load_template(name: str) -> Template:
    """A preset by name, or a template by path when `name` ends in `.toml`.

    Raises:
        ConfigError: no such preset or file, not TOML, or not a template.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the template {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"the template {name} is not UTF-8 text") from error
    elif name in preset_names():
        text = resources.files("muster.protocol.spec.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(f"unknown preset {name!r}; there are: {', '.join(preset_names())}")
    try:
        return Template.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{name}: {first_problem(error)}") from error
