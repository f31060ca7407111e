"""A whole network on one machine: who plays, on what ground, and the processes under watch."""
