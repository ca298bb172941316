"""Watching a federation: bt status in a terminal, bt dashboard in a browser, metrics for others.

Peers tell how they are doing when they are asked (bt/reporting.py). All else, here, happens in the
process of who watches: what the reports add up to, how it looks, predictions to look at.
"""
