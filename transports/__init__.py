"""What peers say to each other, and how it travels. Knows nothing of training."""
