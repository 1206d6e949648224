"""`python -m deploy.monitoring`: write the dashboards and docs/metrics.md anew."""

from pathlib import Path

from deploy.monitoring.generated import files

if __name__ == "__main__":
    for path, text in files().items():
        Path(path).write_text(text)
