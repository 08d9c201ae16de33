import torch

from rayasr.model.masks import causal_mask, chunk_mask, draw_chunk, padding_mask, score_bias

CPU = torch.device("cpu")


def test_a_frame_sees_its_chunk_and_the_chunks_before() -> None:
    mask = chunk_mask(6, 2, 1, CPU).int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]
    assert torch.equal(chunk_mask(5, 1, -1, CPU), causal_mask(5, CPU))


def test_padding_is_hidden() -> None:
    visible = padding_mask(torch.tensor([3, 1]), 3)
    assert visible.tolist() == [[True, True, True], [True, False, False]]
    weights = score_bias(visible, torch.float32).softmax(1)
    assert weights[1].tolist() == [1.0, 0.0, 0.0]


def test_drawn_chunks_are_wenets() -> None:
    torch.manual_seed(0)
    draws = [draw_chunk(120, True) for _ in range(2000)]
    full = [draw for draw in draws if draw == (120, -1)]
    assert 0.45 < len(full) / len(draws) < 0.55
    for chunk, left in set(draws) - {(120, -1)}:
        assert 1 <= chunk <= 25
        assert 0 <= left < max(1, (120 - 1) // chunk)
    assert draw_chunk(1, True) in {(1, -1), (2, 0)}
