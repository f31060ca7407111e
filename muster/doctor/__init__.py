"""`muster doctor`: what is wrong with a set-up, and what to do about it, before a run finds out.

Probes gather facts and do all the I/O, checks judge facts and do none; `examine` puts them in order.
"""
