"""Scans on disk to canonical volumes to slices.

cohort = find_scans(folder)                          layouts.py, labels.py
split_ = split(cohort, peers=5, test_scans=10)       splits.py
loaded = load_volumes(scans, cohort.labels)          cache.py, volumes.py, checks.py
slices = slices_of(loaded.volumes, "coronal")        slices.py
"""
