"""Text as a run uses it: built once into shards of windows, read by window number."""
