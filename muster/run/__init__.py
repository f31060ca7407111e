"""A run as commands and daemons meet it: its folder or URL, its settings, what it stands on, and who takes part."""
