"""A whole network on one machine: who takes part, what is provided for it, and the processes under watch."""
