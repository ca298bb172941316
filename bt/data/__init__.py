"""Scans on disk to canonical volumes to slices, and back.

cohort = find_scans(folder)                             layouts.py: what is there
parts = split(cohort, peers=5, test_scans=10)           splits.py: who gets what
loaded = load_volumes(parts.peers[0], cohort.labels)    cache.py, volumes.py, checks.py
slices = slices_of(loaded.volumes, "coronal")           slices.py: to train on
classes = to_volume(found, "coronal", volume.image.shape)
to_scan_grid(classes, volume)                           volumes.py: as the file has it
"""
