"""The resume protocol: what a client missed while it was away is sent to it afterwards."""
