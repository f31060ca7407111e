"""Chains: who is who, what time it is, where everybody's bucket is, and who is paid."""
