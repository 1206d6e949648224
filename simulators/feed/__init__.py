"""A short-video feed: people and items with latent tastes, a ranker, a value model, people who come back or do not."""
