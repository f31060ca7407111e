"""`muster deploy check`: what the tools that read deployment files take in silence, named before it costs money.

A file is read as its own tool reads it, but nothing is asked of a network and nothing is started.
"""
