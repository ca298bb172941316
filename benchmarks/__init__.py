"""What moving and merging models costs: beside the ceiling and the obvious ways, in one run."""
