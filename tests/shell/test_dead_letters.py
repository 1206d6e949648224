from controller.shell.dead_letters import MAX_CHUNK, MAX_CHUNK_BYTES, MAX_LETTERS, DeadLetter, bounded, chunk


def letter(
    partition: int = 0, offset: int = 0, reason: str = "malformed", data: bytes = b"x", rows: int = 1
) -> DeadLetter:
    return DeadLetter(partition, offset, reason, data, rows)


def test_a_poll_of_few_letters_is_told_as_it_is() -> None:
    few = [letter(offset=k) for k in range(MAX_LETTERS)]
    assert bounded(few) == few
    assert bounded([]) == []


def test_letters_beyond_the_first_are_counted_by_partition_and_reason() -> None:
    told = [letter(offset=k) for k in range(MAX_LETTERS)]
    more = [letter(1, 7), letter(1, 8, rows=40), letter(2, 3), letter(1, 9, "negative"), letter(1, 10)]
    assert bounded(told + more) == [
        *told,
        letter(1, 7, data=b"", rows=42),
        letter(2, 3, data=b""),
        letter(1, 9, "negative", b""),
    ]


def test_a_chunk_has_so_many_letters_and_so_many_bytes() -> None:
    many = [letter(offset=k) for k in range(MAX_CHUNK + 5)]
    assert chunk(many) == many[:MAX_CHUNK]
    assert chunk(many[:3]) == many[:3]
    half = letter(data=bytes(MAX_CHUNK_BYTES // 2))
    assert chunk([half, half, half]) == [half, half]
    assert chunk([letter(data=bytes(2 * MAX_CHUNK_BYTES)), half]) == [letter(data=bytes(2 * MAX_CHUNK_BYTES))]
    assert chunk([]) == []
