import torch

from moleflow_pl._internal.hashing import tensors_hash


def test_hash_tells_values_names_shapes_and_types_apart_but_not_order() -> None:
    one, two = torch.arange(4.0), torch.zeros(2, dtype=torch.int64)
    expected = tensors_hash({"a": one, "b": two})
    assert tensors_hash({"b": two, "a": one}) == expected
    others = [
        {"a": one, "c": two},
        {"a": one.reshape(2, 2), "b": two},
        {"a": one, "b": two.int()},
        {"a": one + 1, "b": two},
    ]
    assert expected not in {tensors_hash(other) for other in others}
