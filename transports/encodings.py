"""The forms in which the image of a model can travel, by name; bt/compression.py makes them.

Alone in a file, as the command line needs the names and nothing of messages.
"""

from __future__ import annotations

PLAIN = "none"
ENCODINGS = (PLAIN, "fp16", "fp16+zstd", "int8", "int8+zstd")
