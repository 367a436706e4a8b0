"""Other people's clients against a live server: `make test-clients`."""
