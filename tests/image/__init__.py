"""The container image and its neighbours, for real: `make test-image`."""
