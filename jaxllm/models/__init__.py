"""Models by configuration, with their sharding rules beside them."""
