"""`muster estimate`: what mining a run takes and costs, as far as it is known, and where each figure comes from."""
