import threading

import pytest

from segjax.data.threads import map_in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_and_errors_come_in_order(threads):
    def function(number):
        if number == 7:
            raise ValueError("seven")
        return number**2

    results = map_in_order(function, iter(range(10)), threads)
    assert [next(results) for _ in range(7)] == [n**2 for n in range(7)]
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_few_items_are_drawn_ahead():
    drawn = []

    def items():
        for number in range(1000):
            drawn.append(number)
            yield number

    results = map_in_order(lambda number: number, items(), 2)
    assert next(results) == 0 and len(drawn) <= 6
    results.close()
    assert len(drawn) <= 6


def test_threads_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)  # breaks unless three threads wait together
    assert list(map_in_order(lambda number: meeting.wait() >= 0, range(6), 3)) == [True] * 6
