"""Making and describing run specs, for `muster spec`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muster.node.data.build import build_corpus
from muster.protocol.errors import StorageError
from muster.protocol.identity import public_of
from muster.protocol.spec import RunSpec, Template, load_template
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.run.fetch import is_url, open_run
from muster.run.file import RUN_FILE
from muster.run.folder import RunDirectory
from muster.testnet.cast import fill_template

DENSE_BITS = 32


def new_spec(
    preset: str,
    out: Path,
    owner: str,
    leaders: tuple[str, ...],
    miners: tuple[str, ...],
    text: Sequence[Path] | None,
    seed: int,
    block: int,
) -> str:
    """Write OUT/spec.json and OUT/data; returns a sentence with the run id.

    Raises:
        ConfigError, DataError, IdentityError, StorageError: something does not fit or cannot be written.
    """
    for hotkey in (owner, *leaders, *miners):
        public_of(hotkey)
    template = load_template(preset)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise StorageError(f"{out} is not empty; name another directory or remove it")
        manifest = build_corpus(text, out / "data", template.data.window)
        spec = fill_template(template, manifest, seed=seed, block=block, miners=miners, leaders=leaders, owner=owner)
        (out / "spec.json").write_bytes(spec.canonical())
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}") from error
    return f"run {spec.run_id().hex()}\n{out / 'spec.json'}"


def describe(what: str) -> str:
    """A preset, template or run with what follows from it, as JSON.

    Raises:
        ConfigError: there is no such thing.
    """
    template: Template
    if is_url(what):
        template = asyncio.run(open_run(what)).history.genesis
    elif (Path(what) / RUN_FILE).exists() or (Path(what).is_dir() and not what.endswith(".toml")):
        template = RunDirectory.open(what).history.genesis
    else:
        template = load_template(what)
    layout = layout_of(template.model)
    codec = codec_of(template)
    derived = {
        "parameters": layout.parameters,
        "tensors": len(layout.names),
        "tiles": layout.grid.tiles,
        "kept_values": codec.count,
        "max_payload_bytes": max_payload_bytes(codec),
        "dense_bytes": layout.parameters * DENSE_BITS // 8,
        "layout_digest": layout.digest.hex(),
    }
    document: dict[str, Any] = {"spec": template.model_dump(mode="json"), "derived": derived}
    if isinstance(template, RunSpec):
        document["run_id"] = template.run_id().hex()
    return json.dumps(document, indent=2)
