"""What the study has found so far: one row a run in a CSV file that survives being cut off at any byte."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

from benchmarks.convergence.engine import Result
from benchmarks.convergence.variant import Variant

LAST_ROUNDS = 3
"""A run's final loss is the mean over so many last rounds: one round's loss has noise of its own."""
PARTS = ("total", "model", "optimizer", "compress", "outer", "evaluate", "rest")
"""The seconds of a row, as `Stopwatch` names them."""
COLUMNS = (
    "id",
    *(field.name for field in fields(Variant)),
    "final_loss",
    "bytes_up",
    *(f"{part}_s" for part in PARTS),
    "losses",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A finished run: held-out nat/byte after each round, mean bytes a peer sends a round, processor seconds."""

    variant: Variant
    losses: tuple[float, ...]
    bytes_up: float
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, variant: Variant, result: Result) -> Row:
        """The row of a run just played."""
        return cls(variant, result.losses, result.bytes_up, {part: getattr(result.stopwatch, part) for part in PARTS})

    @property
    def final(self) -> float:
        """The final loss, nat/byte; infinite for a run that diverged or whose loss is not a number."""
        final = math.fsum(self.losses[-LAST_ROUNDS:]) / len(self.losses[-LAST_ROUNDS:])
        return final if math.isfinite(final) else math.inf

    def cells(self) -> list[str]:
        """As `COLUMNS` has them; losses are one cell, between spaces."""
        return [
            self.variant.id,
            *(str(value) for value in asdict(self.variant).values()),
            f"{self.final:.6f}",
            f"{self.bytes_up:.1f}",
            *(f"{self.seconds[part]:.3f}" for part in PARTS),
            " ".join(f"{loss:.6f}" for loss in self.losses),
        ]

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> Row:
        """The row that was written, its losses rounded to six decimals."""
        return cls(
            Variant.from_id(cells["id"]),
            tuple(float(loss) for loss in cells["losses"].split(" ")),
            float(cells["bytes_up"]),
            {part: float(cells[f"{part}_s"]) for part in PARTS},
        )


class Results(Mapping[Variant, Row]):
    """All rows of a file by variant. `open` continues it; `read` is for looking only."""

    def __init__(self, rows: Mapping[Variant, Row], file: TextIO | None = None) -> None:
        self._rows = dict(rows)
        self._file = file

    @classmethod
    def read(cls, path: Path) -> Results:
        """What the file holds; none if there is no file. A last line that was cut off does not count.

        Raises:
            ValueError: the file is of another study: its columns are others.
        """
        return cls(_rows(path))

    @classmethod
    def open(cls, path: Path) -> Results:
        """The same, ready to add to; one process at a time. A last line that was cut off is removed.

        Raises:
            ValueError: the file is of another study: its columns are others.
        """
        rows = _rows(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _whole_lines(path)
        if path.exists() and len(whole) < path.stat().st_size:
            with path.open("r+b") as torn:
                torn.truncate(len(whole))
        file = path.open("a", encoding="utf-8", newline="")
        if not whole:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)
            file.flush()
        return cls(rows, file)

    def add(self, row: Row) -> None:
        """Write a row; it is in the file when this returns."""
        assert self._file is not None, "results that were only read take no rows"
        csv.writer(self._file, lineterminator="\n").writerow(row.cells())
        self._file.flush()
        self._rows[row.variant] = row

    def close(self) -> None:
        """Take no more rows."""
        if self._file is not None:
            self._file.close()

    def __getitem__(self, variant: Variant) -> Row:
        return self._rows[variant]

    def __iter__(self) -> Iterator[Variant]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _whole_lines(path: Path) -> bytes:
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def _rows(path: Path) -> dict[Variant, Row]:
    lines = _whole_lines(path).decode().splitlines()
    if not lines:
        return {}
    table = csv.DictReader(lines)
    if tuple(table.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} has other columns than this version of the study writes; move it out of the way")
    rows = [Row.from_cells(cells) for cells in table]
    return {row.variant: row for row in rows}
