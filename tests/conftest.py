"""What every test of the tree runs under."""

from __future__ import annotations

import os

from hypothesis import settings

# A deadline per example makes a law fail when the machine is busy; pytest's own timeout bounds each test.
settings.register_profile("muster", deadline=None)
settings.load_profile("muster")

# GPU programs run on the CPU. Triton looks when it is first imported, and transformers imports it too.
os.environ["TRITON_INTERPRET"] = "1"
