"""run.toml: what a participant needs to know to find a run, the same for a folder and for a URL."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Final, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from muster.protocol.errors import ConfigError
from muster.protocol.spec import HEX32, ChainSpec, first_problem

RUN_FILE = "run.toml"
SPEC_FILE = "spec.json"
DATA_FOLDER = "data"

FOLDERS = "dir:"
NETWORK = "network"
SQLITE = "sqlite:"
BITTENSOR = "bittensor"
LOCAL = "local"
"""The kind of chain that a `sqlite:` file holds, as specs call it."""

FORMAT: Final = 2
"""Of a run: what its objects, its spec and its run.toml look like."""

NO_RUN = "0" * 64
"""Stands in a run file whose run id is not known yet."""

MAX_RUN_FILE_BYTES = 64 * 2**10
"""Cap of a run.toml that comes over the network; a real one is under 1 KiB."""

_Texts = Annotated[tuple[str, ...], Field(strict=False)]


class RunFile(BaseModel):
    """The settings of run.toml; paths are relative to the file.

    `store` is `dir:FOLDER` (everybody's buckets are folders in it) or `network` (everybody's bucket is where he
    committed it). `chain` is `sqlite:FILE` or `bittensor`, which needs the subnet's `netuid` and `endpoints`
    (wss://…, the first that answers is used). `allow` names private addresses that buckets may be at; it counts only
    in a run.toml on the reader's own disk, since whoever publishes a run must not open his readers' networks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format: Literal[2] = FORMAT
    run_id: Annotated[str, Field(pattern=f"^{HEX32}$")]
    spec: str = SPEC_FILE
    data: str = DATA_FOLDER
    store: Annotated[str, Field(pattern=rf"^({FOLDERS}.+|{NETWORK})$")] = "dir:buckets"
    chain: Annotated[str, Field(pattern=rf"^({SQLITE}.+|{BITTENSOR})$")] = "sqlite:chain.sqlite"
    netuid: Annotated[int, Field(ge=0, lt=2**16)] | None = None
    endpoints: _Texts = ()
    allow: _Texts = ()

    @model_validator(mode="after")
    def _chain_is_whole(self) -> Self:
        named = self.netuid is not None, bool(self.endpoints)
        if named != ((True, True) if self.chain == BITTENSOR else (False, False)):
            raise ValueError("netuid and endpoints go with chain = 'bittensor', and only with it")
        return self

    def check_chain(self, chain: ChainSpec) -> None:
        """Refuse a spec that stands on another kind of chain or another subnet than this file leads to.

        Raises:
            ConfigError: it does.
        """
        kind = BITTENSOR if self.chain == BITTENSOR else LOCAL
        if (chain.kind, chain.netuid) != (kind, self.netuid or 0):
            where = f"subnet {self.netuid} of Bittensor" if self.chain == BITTENSOR else "a local chain"
            raise ConfigError(f"{RUN_FILE} leads to {where}, but its spec is for {chain}; publish the run anew")

    def to_bytes(self) -> bytes:
        """The text of the file; what is not set is left out."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps({name: value for name, value in fields.items() if value != []}).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> RunFile:
        """Parse a run.toml that was read at `where`.

        Raises:
            ConfigError: not TOML, not a run file, or one of a run of another format.
        """
        try:
            document = tomllib.loads(data.decode())
            if (found := document.get("format", 1)) != FORMAT:  # the first format did not say so
                raise ConfigError(f"{where} is of a run of format {found}; this release reads format {FORMAT}")
            return cls.model_validate(document)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} is not valid TOML: {error}") from error
        except ValidationError as error:
            raise ConfigError(f"{where}: {first_problem(error)}") from error
