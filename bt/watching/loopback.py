"""What is served to this machine alone is not read through a name of somebody else's.

A page from elsewhere may have its own name lead to 127.0.0.1 (DNS rebinding): the browser takes
what is served here for that page's own. The Host header has the name that was used.
"""

from __future__ import annotations

import re

# With any port: it may have been forwarded.
_OURS = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]*)?", re.IGNORECASE)


def names_this_machine(host: str | None) -> bool:
    """Whether a request with this Host header was meant for a loopback address."""
    return _OURS.fullmatch(host or "") is not None
