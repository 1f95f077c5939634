"""What an ASGI server can be given to serve many connections faster."""
