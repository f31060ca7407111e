"""Following the ledger: the one reader, the shell that carries out what the round machine says, and who takes part."""
