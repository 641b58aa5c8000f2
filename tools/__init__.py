"""Programs for those who work on Ingot; none is installed with it."""
