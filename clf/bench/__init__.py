"""How fast the parts are on this machine, what they wait for, and which key to change."""
