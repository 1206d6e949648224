"""What the project claims, measured: one file per claim, each beside the peer it is compared with."""
