"""Add-ons for ASGI servers that serve many connections faster."""
