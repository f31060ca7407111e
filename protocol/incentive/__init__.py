"""What work is worth and what it earns: pure, so that anybody can recompute it."""
