"""Designs the ranking model whose predictions the value model folds into one score. Offline."""
