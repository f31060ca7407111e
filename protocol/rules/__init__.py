"""The rules of a round, each a pure function: who may submit what, who is expected, who gets a seat, what it weighs."""
