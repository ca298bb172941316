"""How N peers get started: plan() is pure text, start() runs it."""
