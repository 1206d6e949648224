"""A whole topic, read back for a recount."""

from kafka import KafkaConsumer, TopicPartition

Topic = dict[int, list[tuple[int, bytes]]]


def read_topic(bootstrap: str, topic: str) -> Topic:
    """Every record of every partition, in offset order."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        parts = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(parts)
        consumer.seek_to_beginning(*parts)
        ends = consumer.end_offsets(parts)
        found: Topic = {part.partition: [] for part in parts}
        while any(consumer.position(part) < ends[part] for part in parts):
            for part, records in consumer.poll(timeout_ms=500, max_records=50_000).items():
                found[part.partition] += [(record.offset, record.value) for record in records]
    finally:
        consumer.close()
    return found
