"""Everything that touches the world: Kafka, Redis, SQLite, files, clocks, signals."""
