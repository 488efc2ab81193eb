"""The statistics of heads, on weights made by hand."""

from __future__ import annotations

import torch

from llama_jp.inspection.attention import STATISTICS, head_statistics, lower_triangle

IDS = [1, 7, 8, 7, 8, 9]  # five queries; 7 and 8 occur twice


def statistics(looks_at: dict[int, int]) -> dict[str, float]:
    """Those of a head whose query i puts all its weight on key looks_at[i], and the others on themselves."""
    weights = torch.eye(5)[None].clone()
    for query, key in looks_at.items():
        weights[0, query] = torch.eye(5)[key]
    return dict(zip(STATISTICS, head_statistics(weights, IDS)[0].tolist(), strict=True))


def test_self():
    found = statistics({})
    assert found["self"] == 1 and found["previous"] == 0 and found["spread"] == 1


def test_previous():
    assert statistics({i: i - 1 for i in range(1, 5)})["previous"] == 1


def test_first_counts_from_the_third_token():
    found = statistics({2: 0, 3: 0, 4: 0})
    assert found["first"] == 1 and found["previous"] == 0


def test_copies_of_the_same_token():
    found = statistics({3: 1, 4: 2})
    assert found["copies"] == 1 and found["after"] == 0 and found["next"] == 0


def test_after_a_copy():
    """Induction: query 3 (the second 7) looks at key 2, which followed the first 7."""
    found = statistics({3: 2, 4: 3})
    assert found["after"] == 1 and found["copies"] == 0


def test_copies_of_the_next_token():
    """Query 2 is followed by 7, which stands at 1; query 3 by 8, at 2."""
    assert statistics({2: 1, 3: 2})["next"] == 1


def test_no_token_twice_is_no_number():
    found = dict(zip(STATISTICS, head_statistics(torch.eye(3)[None], [1, 2, 3, 4])[0], strict=True))
    assert found["copies"].isnan() and found["next"].isnan() and found["self"] == 1


def test_a_uniform_row_spreads_over_its_keys():
    weights = torch.ones(2, 4, 4).tril() / torch.arange(1, 5)[:, None]
    torch.testing.assert_close(head_statistics(weights, [1, 2, 3, 4, 5])[:, -1], torch.tensor([3.0, 3.0]))


def test_the_triangle_goes_row_by_row():
    weights = torch.arange(9.0).reshape(1, 3, 3)
    assert lower_triangle(weights).tolist() == [[0, 3, 4, 6, 7, 8]]
