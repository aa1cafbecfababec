"""Reward models: the token layout each was trained on, and where its scores are read.

`formats` is pure: text in, token ids and places out. `network` loads and runs a model (torch). The engine around both
is `strop.server.scoring.reward`.
"""
