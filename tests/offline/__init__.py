"""examples/ray on a Ray of its own: `make test-offline`."""
