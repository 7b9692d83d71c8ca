"""Real tables from packages, used as a new user would use them."""
