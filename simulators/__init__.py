"""Simulated products that Trimtab is proven on."""
