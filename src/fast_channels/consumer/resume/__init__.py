"""The resume protocol: a client that was away is sent what it has missed."""
