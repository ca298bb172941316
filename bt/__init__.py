"""Train one segmentation network together, peer to peer, with no server."""

__version__ = "0.1.0"
