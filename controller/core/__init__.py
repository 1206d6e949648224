"""The pure core, in flow order: no IO, no clock, no hidden randomness."""
