import numpy as np
import torch

from rayasr.data.batch import Batch, collate, pad_features


def make_batch() -> Batch:
    pieces = [
        [np.ones((5, 3), np.float16)],
        [np.full((2, 3), 2, np.float32), np.full((6, 3), 3, np.float32)],
    ]
    features, lengths = pad_features(pieces)
    tokens = [np.array([4, 5, 6], np.int32), np.array([7], np.int32)]
    return collate(features, lengths, tokens, ["a", "b+c"], seed=11)


def test_rows_are_joined_and_padded() -> None:
    batch = make_batch()
    assert batch.features.shape == (2, 8, 3)
    assert batch.features.dtype == torch.float32
    assert batch.features[:, :, 0].tolist() == [[1] * 5 + [0] * 3, [2] * 2 + [3] * 6]
    assert batch.feature_lengths.tolist() == [5, 8]
    assert batch.tokens.tolist() == [[4, 5, 6], [7, -1, -1]]
    assert batch.token_lengths.tolist() == [3, 1]
    assert batch.keys == ["a", "b+c"]
    for tensor in (batch.feature_lengths, batch.tokens, batch.token_lengths):
        assert tensor.dtype == torch.int64


def test_padding_is_cut_to_the_longest_after_trimming() -> None:
    features, _ = pad_features([[np.ones((9, 2))], [np.ones((5, 2))]])
    tokens = [np.array([1]), np.array([2])]
    batch = collate(features, np.array([6, 5]), tokens, ["a", "b"], 0)
    assert batch.features.shape == (2, 6, 2)
    assert batch.features.is_contiguous()


def test_an_utterance_without_units_has_no_tokens() -> None:
    features, lengths = pad_features([[np.ones((4, 2))]])
    batch = collate(features, lengths, [np.array([], np.int32)], ["a"], 0)
    assert batch.tokens.shape == (1, 0)
    assert batch.token_lengths.tolist() == [0]


def test_to_moves_all_tensors() -> None:
    moved = make_batch().to("meta")
    assert moved.features.device.type == moved.tokens.device.type == "meta"
    assert moved.seed == 11
    assert moved.keys == ["a", "b+c"]
