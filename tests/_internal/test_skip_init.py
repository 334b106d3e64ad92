import torch
from torch import nn

from moleflow_pl._internal.skip_init import SkipInit


def test_layers_take_no_random_numbers_and_keep_what_is_fixed() -> None:
    state = torch.random.get_rng_state()
    with SkipInit():
        layers = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Conv2d(3, 2, 3))
        for draw in (nn.init.trunc_normal_, nn.init.normal_, nn.init.uniform_):
            draw(layers[0].weight)
        nn.init.xavier_uniform_(layers[0].weight)
        nn.init.kaiming_normal_(layers[0].weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert layers[0].weight.isnan().all()  # so that one that nothing replaces is noticed
    assert torch.equal(layers[1].weight, torch.ones(5))
    nn.init.normal_(layers[0].weight)
    assert not torch.equal(torch.random.get_rng_state(), state)
