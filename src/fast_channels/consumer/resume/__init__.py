"""The resume protocol: clients that reconnect get the messages that they have missed."""
