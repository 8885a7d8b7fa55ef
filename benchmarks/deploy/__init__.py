"""A deployed round beside Flower's own way to run the same app."""
