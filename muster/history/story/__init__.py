"""The story of one round for a person: what happened in it, in order, what failed, and what it waits for."""

from __future__ import annotations

from muster.history.story.gather import read_story
from muster.history.story.page import page
from muster.history.story.story import Story, tell

__all__ = ["Story", "page", "read_story", "tell"]
