"""``clf check``: what is wrong with a configuration and its data, found before the first step is paid for."""
