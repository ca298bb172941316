"""bt report: one page, report.html, that shows what a run or an experiment found.

read.py reads the folder into the dataclasses of study.py, history.py the peers' event logs;
tables.py, figures.py, timeline.py and overlays.py make the parts, page.py puts them into
page.html.j2. paper.py has the paper's figures to stand beside.
"""
