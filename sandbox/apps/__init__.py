"""One package per panel of the page."""
