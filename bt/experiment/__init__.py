"""bt experiment: the paper's comparisons, every method with the same budget.

plan.py says what is run, strategies.py how each method trains, simulation.py how BrainTorrent's
peers do it in one process; part.py runs one method once, jobs.py all of them, results.py gathers.
"""
