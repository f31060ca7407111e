"""Why a peer is paid what it is paid, for a person: from records and score files alone, with all the arithmetic."""

from __future__ import annotations

from muster.history.explain.explanation import Explanation, explain
from muster.history.explain.gather import read_case
from muster.history.explain.page import page

__all__ = ["Explanation", "explain", "page", "read_case"]
