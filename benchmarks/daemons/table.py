"""Every figure that is measured here: of which section, in what unit, and what it is to be at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `section` is the module here that measures it, `name` its key in what that module returns.

    `target` is the most it may be, in `unit`; `of_before`: in shares of what commit 5c6907b takes in the same run.
    """

    section: str
    name: str
    title: str
    unit: str
    target: float
    of_before: bool = False


ROWS: tuple[Row, ...] = (
    Row("catch_up", "s3_overlap", "catch-up from an S3 server, of its slowest part alone", "×", 1.2),
    Row("catch_up", "folder_overlap", "catch-up from a folder, of its slowest part alone", "×", 1.2),
    Row("catch_up", "tiny_round", "catch-up from a folder, `tiny`: a missed round", "ms", 10),
)
