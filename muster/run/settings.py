"""NodeConfig: how one participant is deployed. Nothing here is consensus; flags win over `MUSTER_*` over TOML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from muster.node.wished import Device, Moments, Precision, Wished
from muster.protocol.errors import ConfigError
from muster.protocol.faults import VARIABLE as FAULTS_VARIABLE
from muster.protocol.spec import first_problem
from muster.run.credentials import CREDENTIAL_VARIABLES

PREFIX = "MUSTER_"
CONFIG_VARIABLE = "MUSTER_CONFIG"

COMPUTE = ("device", "precision", "compile", "moments", "micro_batch", "recompute")
"""The settings that say how this machine computes; `NodeConfig.wished` makes one value of them."""

SHARED_VARIABLES = frozenset(
    {"MUSTER_THREADS", "MUSTER_LOG_LEVEL", FAULTS_VARIABLE} | {PREFIX + name.upper() for name in COMPUTE}
)
"""What a testnet hands on to all its participants; the others would make them one and the same."""


@dataclass(frozen=True, slots=True)
class Unset:
    """In a setting's declaration: what its value follows from where it is not given, in words for people."""

    words: str


class NodeConfig(BaseSettings):
    """The settings of a participant.

    This is their one declaration: the flags of the daemons, the variables, the keys of the TOML file and the table in
    docs/operations.md follow from it. The text below a setting is its help and its row in that table.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: str
    """The run's folder or URL (it holds run.toml)."""
    name: str
    """What this participant is called in it; the next three follow from it."""
    key_file: Annotated[Path | None, Unset("RUN/keys/NAME.key")] = None
    """The hotkey: its seed in 64 hexadecimal digits, or a Bittensor hotkey file."""
    location: Annotated[str | None, Unset("dir:NAME")] = None
    """The bucket to write, as committed on chain; required where buckets are on the network."""
    bootstrap: Annotated[str, Unset("none")] = ""
    """A short address where anybody can read the bucket's hello: committed for a location that is too long to be."""
    state: Annotated[Path | None, Unset("RUN/state/LABEL")] = None
    """Folder for what must survive a restart; a run that is a URL is copied to its subfolder `run`."""
    threads: int = Field(default=1, ge=1)
    """torch's threads; more than one change the last bits of a miner's training and of losses."""
    device: Device = "auto"
    """`auto`: a GPU where one works, else the CPU; `cpu`; or `cuda`, the first GPU (an aggregator needs none)."""
    precision: Precision = "auto"
    """Of matrix products: `bf16`, `fp32`, or `auto`: bf16 on GPUs that have it, on CPUs what is faster when tried."""
    compile: bool = False
    """Train through `torch.compile`: faster steps after a minute or more of compiling."""
    moments: Moments = "full"
    """What a miner keeps of the optimizer's moments, by the memory it has: `full`, `8bit` or `factored`."""
    micro_batch: Annotated[int | None, Field(ge=1), Unset("the batch, halved until a GPU holds it")] = None
    """Windows that a miner trains on at a time; the gradient is the batch's all the same."""
    recompute: bool = False
    """Make activations again in the backward pass instead of keeping them: less memory, a third more work."""
    save_every: int = Field(default=1, ge=1)
    """Rounds from one writing of a miner's error feedback and moments to the next; killed, it loses those since."""
    keep_gb: float = Field(default=100.0, gt=0.0, allow_inf_nan=False)
    """GB of bundles and checkpoints that an aggregator keeps: above, the oldest go; those of two checkpoints stay."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning` or `error`."""
    service: str = "127.0.0.1:0"
    """Where health, status and metrics are answered: `HOST:PORT` (port 0: any free one), or `off`."""
    chain: Annotated[str | None, Unset("as the run says")] = None
    """Your own way to the run's chain: endpoints with commas, or `sqlite:FILE`."""
    allow: Annotated[str, Unset("none")] = ""
    """Private addresses that may be connected to, with commas: `HOST`, `HOST:PORT`, networks such as `10.0.0.0/8`."""

    @property
    def keep_bytes(self) -> int:
        """What an aggregator may keep."""
        return int(self.keep_gb * 10**9)

    @property
    def wished(self) -> Wished:
        """How this machine is to compute."""
        return Wished(self.device, self.precision, self.compile, self.moments, self.micro_batch, self.recompute)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the TOML file named by `MUSTER_CONFIG`."""
        path = os.environ.get(CONFIG_VARIABLE)
        files = (TomlConfigSettingsSource(settings_cls, Path(path)),) if path else ()
        return init_settings, env_settings, *files


@dataclass(frozen=True, slots=True)
class Setting:
    """How a setting is given and told of: `default` is what it is where nobody gives it, in words ("required")."""

    name: str
    meaning: str
    default: str

    @property
    def flag(self) -> str:
        """What a daemon's command calls it."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """What the environment calls it."""
        return PREFIX + self.name.upper()


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _setting(name: str, field: FieldInfo) -> Setting:
    words = [mark.words for mark in field.metadata if isinstance(mark, Unset)]
    default = "required" if field.is_required() else words[0] if words else _plain(field.default)
    return Setting(name, field.description or "", default)


SETTINGS: Mapping[str, Setting] = {name: _setting(name, field) for name, field in NodeConfig.model_fields.items()}
"""Every setting by name, in the order of its declaration."""

NODE_VARIABLES = frozenset(
    {setting.variable for setting in SETTINGS.values()} | {CONFIG_VARIABLE, FAULTS_VARIABLE} | CREDENTIAL_VARIABLES
)
"""What a participant's environment may hold."""


def load_config(flags: Mapping[str, Any], environment: Mapping[str, str]) -> NodeConfig:
    """The settings from flags (None: not given), environment and file.

    Raises:
        ConfigError: an unknown key, a missing or a wrong value, or a file that is not there or not TOML.
    """
    check_variables(environment, NODE_VARIABLES)
    path = environment.get(CONFIG_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigError(f"the configuration file {path} does not exist")
    try:
        return NodeConfig(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(f"the configuration is not valid: {first_problem(error)}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from error


def check_variables(environment: Mapping[str, str], known: Set[str]) -> None:
    """Refuse `MUSTER_*` variables that would be ignored.

    Raises:
        ConfigError: there is one that is not among the known.
    """
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        near = get_close_matches(unknown[0], known, n=3, cutoff=0.0)
        raise ConfigError(
            f"{unknown[0]} is not a setting here; nearest are {', '.join(near)} (docs/operations.md has all of them)"
        )
