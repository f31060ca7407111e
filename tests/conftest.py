"""What every test of the tree runs under."""

from __future__ import annotations

from hypothesis import settings

# A deadline per example makes a law fail when the machine is busy; pytest's own timeout bounds each test.
settings.register_profile("muster", deadline=None)
settings.load_profile("muster")
