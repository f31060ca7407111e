"""Which kind of file each is, and all that is wrong in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from muster.deploy import cloud_init, compose, dotenv, skypilot, systemd
from muster.deploy.fault import Fault
from muster.deploy.yaml_file import YamlFile
from muster.protocol.errors import ConfigError, UsageError

MAX_BYTES = 1 << 20
"""A deployment file is written by hand."""

_YAML = frozenset({".yaml", ".yml"})


def check_files(paths: Sequence[Path]) -> list[Fault]:
    """The faults of all files, in order; a settings file among them tells the others what is given.

    Raises:
        ConfigError: a file cannot be read, or is not in its own format.
        UsageError: no file is named, or one is of no kind that is known.
    """
    if not paths:
        raise UsageError("name the files: settings.env, a SkyPilot task, compose.yml, a unit, cloud-init user data")
    texts = {path: _read(path) for path in paths}
    settings = [text for path, text in texts.items() if path.suffix == ".env"]
    given = frozenset(name for text in settings for name in dotenv.values(text))
    return [fault for path, text in texts.items() for fault in sorted(set(_check(path, text, given)))]


def _check(path: Path, text: str, given: frozenset[str]) -> Iterator[Fault]:
    name = str(path)
    if path.suffix == ".env":
        yield from dotenv.check(name, text)
        yield from dotenv.check_keys(name, text)
    elif path.suffix == ".service":
        yield from systemd.check(name, text)
    elif path.suffix in _YAML:
        yield from _yaml(YamlFile(name, text), text, given)
    else:
        raise UsageError(f"{path} is no settings file (.env), unit (.service) or YAML file (.yaml, .yml)")


def _yaml(file: YamlFile, text: str, given: frozenset[str]) -> Iterator[Fault]:
    yield from file.faults_of_form()
    if isinstance(file.value.get("services"), dict):
        yield from compose.check(file, given)
    elif "run" in file.value or "resources" in file.value:
        yield from skypilot.check(file, given)
    elif "runcmd" in file.value or "write_files" in file.value:
        if text.splitlines()[0].rstrip() != cloud_init.FIRST_LINE:
            fix = f"begin it with {cloud_init.FIRST_LINE}"
            yield Fault(file.name, 1, "first line", "cloud-init passes over it without a word", fix)
        yield from cloud_init.check(file)
    else:
        raise UsageError(f"{file.name} is neither a SkyPilot task, nor a compose file, nor cloud-init user data")


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path} has {len(data)} bytes; a deployment file has at most {MAX_BYTES}")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
