"""One file per array library: what a machine can do, and how arrays get there and back."""
