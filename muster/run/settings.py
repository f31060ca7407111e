"""NodeConfig: how one participant is deployed. Nothing here is consensus; flags win over `MUSTER_*` over TOML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from muster.protocol.errors import ConfigError
from muster.protocol.faults import VARIABLE as FAULTS_VARIABLE
from muster.protocol.spec import first_problem
from muster.run.credentials import CREDENTIAL_VARIABLES

PREFIX = "MUSTER_"
CONFIG_VARIABLE = "MUSTER_CONFIG"

SHARED_VARIABLES = frozenset({"MUSTER_THREADS", "MUSTER_LOG_LEVEL", FAULTS_VARIABLE})
"""What a testnet hands on to all its participants; the others would make them one and the same."""


class NodeConfig(BaseSettings):
    """The settings of a participant.

    `run` is the run's folder or URL. `name` is what it is called here; key, bucket and state follow from it unless
    they are named. `key_file` holds the hotkey: a 32-byte seed in hexadecimal or a Bittensor hotkey file. `location`
    is the bucket to commit. `state` is a folder for what must survive a restart; a run that is a URL is copied to its
    subfolder `run`. `threads` are torch's; one makes a run repeatable. `chain` replaces the endpoints that the run
    names. `allow` lists private addresses that may be connected to: hosts, HOST:PORT and networks, with commas.
    `service` is where health, status and metrics are answered: HOST:PORT (port 0: any free one), or off.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    run: str
    name: str
    key_file: Path | None = None
    location: str | None = None
    state: Path | None = None
    threads: int = Field(default=1, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    service: str = "127.0.0.1:0"
    chain: str | None = None
    allow: str = ""

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


NODE_VARIABLES = frozenset(
    {PREFIX + name.upper() for name in NodeConfig.model_fields}
    | {CONFIG_VARIABLE, FAULTS_VARIABLE}
    | CREDENTIAL_VARIABLES
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
        raise ConfigError(f"{unknown[0]} is not a setting here; there are: {', '.join(sorted(known))}")
