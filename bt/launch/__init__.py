"""bt launch: from one description, a peer on every host; their logs, their end, their results."""
