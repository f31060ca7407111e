"""What a run is on disk: where its spec, text, chain, buckets, keys, states and logs are, from one run.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from muster.cast import Cast
from node.corpus import build_corpus
from protocol.chain.base import Chain
from protocol.chain.sqlite import SqliteChain
from protocol.errors import ConfigError, StorageError
from protocol.history import SpecHistory
from protocol.spec import HEX32, RunSpec, Template, first_problem
from protocol.storage import Buckets, DirectoryBuckets

RUN_FILE = "run.toml"
_SECRET_MODE = 0o600


class RunFile(BaseModel):
    """run.toml: what a participant needs to know to find a run; paths are relative to the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    run_id: Annotated[str, Field(pattern=f"^{HEX32}$")]
    spec: str = "spec.json"
    data: str = "data"
    store: str = "buckets"
    chain: str = "chain.sqlite"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run on this machine's file system."""

    path: Path
    file: RunFile
    history: SpecHistory

    @classmethod
    def open(cls, run: str) -> RunDirectory:
        """Open a run by the folder that holds its run.toml.

        Raises:
            ConfigError: no such run, or its files do not belong together.
        """
        path = Path(run).absolute()
        try:
            file = RunFile.model_validate(tomllib.loads((path / RUN_FILE).read_text()))
            spec = RunSpec.from_bytes((path / file.spec).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"no run at {run}: {error.filename} does not exist") from error
        except OSError as error:
            raise ConfigError(f"the run at {run} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path / RUN_FILE} is not valid TOML: {error}") from error
        except ValidationError as error:
            raise ConfigError(f"{path / RUN_FILE}: {first_problem(error)}") from error
        history = SpecHistory.of(spec)
        if history.run_id.hex() != file.run_id:
            raise ConfigError(f"{path / file.spec} is the spec of another run than {path / RUN_FILE} names")
        return cls(path, file, history)

    @property
    def data(self) -> Path:
        """The text's shards and manifest."""
        return self.path / self.file.data

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def chain(self) -> Chain:
        """A client of the run's chain."""
        return SqliteChain(self.path / self.file.chain)

    def buckets(self) -> Buckets:
        """Everybody's buckets."""
        return DirectoryBuckets(self.path / self.file.store)

    def key(self, name: str) -> Path:
        """Where a local participant's hotkey seed is."""
        return self.path / "keys" / f"{name}.key"

    def state(self, name: str) -> Path:
        """What a local participant keeps for itself."""
        return self.path / "state" / name

    def journal(self, name: str) -> Path:
        """A local participant's events."""
        return self.path / "logs" / f"{name}.jsonl"

    def log(self, name: str) -> Path:
        """What a local participant's process printed."""
        return self.path / "logs" / f"{name}.log"


def create(path: Path, template: Template, cast: Cast, files: list[Path] | None, block_seconds: float) -> RunDirectory:
    """Lay out a new local run: text, spec, chain, keys.

    Raises:
        StorageError: the folder cannot be written or holds something already.
        DataError, UsageError: the text or the cast does not fit the template.
    """
    cast.check_fits(template)  # before anything is written
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise StorageError(f"{path} is not empty; name another directory or remove it")
        for folder in ("keys", "logs", "state", "buckets"):
            (path / folder).mkdir()
        manifest = build_corpus(files, path / "data", template.data.window)
        spec = cast.spec(template, manifest)
        (path / "spec.json").write_bytes(spec.canonical())
        for member in cast.members:
            key = path / "keys" / f"{member.name}.key"
            key.touch(mode=_SECRET_MODE)
            key.write_text(member.seed.hex() + "\n")
        genesis = cast.chain_genesis(spec.data.slots)
        SqliteChain.create(path / "chain.sqlite", genesis, block_seconds=block_seconds)
        (path / RUN_FILE).write_text(tomli_w.dumps(RunFile(run_id=spec.run_id().hex()).model_dump()))
    except OSError as error:
        raise StorageError(f"cannot lay out a run in {path}: {error.strerror}") from error
    return RunDirectory.open(str(path))
