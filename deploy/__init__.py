"""What runs Trimtab: image, compose, Kubernetes, and what watches it."""
