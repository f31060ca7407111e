"""The bench: whole runs that take milliseconds, and parts that fail by script. No daemon imports it."""
