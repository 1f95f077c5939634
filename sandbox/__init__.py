"""The showcase: a FastAPI application that uses every part of Fast Channels."""
