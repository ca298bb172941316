"""What things cost, as ratios to the obvious way measured side by side in one run."""
