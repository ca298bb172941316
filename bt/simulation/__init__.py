"""Federations simulated in one process: the real peers, in virtual time, decided by one seed.

Protocol, runner, merge, shelf, messages and checkpoints are the product's own; what they stand on
is not: clock, network, disk, workers and training are simulated, and fail as the seed has it.
"""
