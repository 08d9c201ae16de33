"""How many workers a recipe trains with where nobody says."""

import pytest

from rayasr.train.setup import check_workers, default_workers
from tests.factories import tiny_training_recipe


@pytest.mark.parametrize(("gpus", "workers"), [(0, 1), (1, 1), (3, 3), (4, 4), (8, 4)])
def test_one_worker_per_gpu_but_no_more_than_share_a_step(gpus: int, workers: int):
    recipe, said = tiny_training_recipe(), list[str]()
    assert default_workers(recipe, gpus, said.append) == workers
    check_workers(recipe, workers)
    assert said == (["training on 4 of 8 GPUs, for batch.micro_batches is 4"] if gpus == 8 else [])


def test_batch_norm_trains_on_one_gpu():
    said: list[str] = []
    encoder = {"convolution_norm": "batch_norm"}
    recipe = tiny_training_recipe()
    model = recipe.model.model_copy(
        update={"encoder": recipe.model.encoder.model_copy(update=encoder)}
    )
    recipe = recipe.model_copy(update={"model": model})
    assert default_workers(recipe, 2, said.append) == 1
    check_workers(recipe, 1)
    assert said == ["training on 1 of 2 GPUs, for batch_norm needs one worker"]
