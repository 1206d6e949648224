"""Trimtab's controller: tunes the weights of a recommender's value model on live traffic."""
