"""Dashboards and the table of metrics as code: `python -m deploy.monitoring` writes the files that are committed."""
