import copy

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import pytest
import torch

from moleflow_pl.flow.coupling import random_rotation
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from tests.helpers.models import wake


@pytest.mark.parametrize("dim", [12, 13])
def test_block_equals_all_in_one_block(dim: int) -> None:
    flow = MoLESpatialAwareNF(dim, coupling_layers=2, lora_rank=2)
    wake(flow)
    reference = Ff.SequenceINN(dim)
    blocks = iter(flow.flow)
    for _ in range(2):
        subnet = copy.deepcopy(next(blocks).subnet)
        reference.append(
            Fm.AllInOneBlock,
            subnet_constructor=lambda *_, subnet=subnet: subnet,
            affine_clamping=1.9,
            global_affine_type="SOFTPLUS",
            permute_soft=True,
        )
    reference.load_state_dict(flow.flow.state_dict())
    rows = torch.randn(7, dim)
    for rev in (False, True):
        for actual, wanted in zip(
            flow.flow(rows, c=[None], rev=rev), reference(rows, rev=rev), strict=True
        ):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_global_scale_starts_where_all_in_one_block_does() -> None:
    block = Fm.AllInOneBlock(
        [(6,)], subnet_constructor=torch.nn.Linear, global_affine_type="SOFTPLUS"
    )
    ours = MoLESpatialAwareNF(6, coupling_layers=1).flow[0].global_scale
    torch.testing.assert_close(ours.detach(), block.global_scale.detach())


def test_rotation_comes_from_torchs_seed_and_is_never_trained() -> None:
    torch.manual_seed(3)
    first = random_rotation(16)
    torch.manual_seed(3)
    assert torch.equal(random_rotation(16), first)
    assert torch.linalg.det(first.double()).item() == pytest.approx(1.0, abs=1e-5)
    flow = MoLESpatialAwareNF(8, coupling_layers=1)
    assert "flow.module_list.0.w_perm" not in dict(flow.named_parameters())
