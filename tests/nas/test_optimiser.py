import torch

from nas.optimiser import MaskedAdam, moments_of, pieces, step_rows, step_slice

GENERATOR = torch.Generator().manual_seed(0)
AXES = (((0, 3),), ((1, 4), (6, 8)))  # of a (5, 9) weight: 3 rows, 3 + 2 columns


def test_pieces_cover_the_own_weight_once() -> None:
    whole, own = torch.arange(45.0).reshape(5, 9), torch.full((3, 5), -1.0)
    for place, part in pieces(AXES):
        own[part] = whole[place]
    assert torch.equal(own, whole[:3][:, [1, 2, 3, 6, 7]])


def test_a_slice_moves_as_under_torch_adam_and_the_rest_stays() -> None:
    weight = torch.randn(5, 9, generator=GENERATOR)
    before, mine = weight.clone(), moments_of(weight)
    own = torch.nn.Parameter(weight[:3][:, [1, 2, 3, 6, 7]].clone())
    adam = torch.optim.Adam([own], 0.01)
    for _ in range(5):
        own.grad = torch.randn(3, 5, generator=GENERATOR)
        adam.step()
        step_slice(weight, mine, AXES, own.grad, 0.01)
    assert torch.allclose(weight[:3][:, [1, 2, 3, 6, 7]], own, atol=1e-6)
    assert torch.equal(weight[3:], before[3:])
    assert torch.equal(weight[:, [0, 4, 5, 8]], before[:, [0, 4, 5, 8]])


def test_rows_move_as_under_torch_sparse_adam() -> None:
    weight = torch.randn(6, 4, generator=GENERATOR)
    table, mine = torch.nn.Parameter(weight[:, :3].clone()), moments_of(weight)
    adam = torch.optim.SparseAdam([table], 0.01)
    for rows in ([0, 2], [2, 5], [1, 2]):
        gradient = torch.randn(2, 3, generator=GENERATOR)
        table.grad = torch.sparse_coo_tensor(torch.tensor([rows]), gradient, (6, 3), check_invariants=True)
        adam.step()
        step_rows(weight, mine, torch.tensor(rows), gradient, 0.01)
    assert torch.allclose(weight[:, :3], table, atol=1e-6)


def test_a_masked_table_moves_as_under_torch_sparse_adam() -> None:
    start = torch.randn(6, 3, generator=GENERATOR)
    table, masked = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    sparse, mine = torch.optim.SparseAdam([table], 0.01), MaskedAdam([masked], torch.tensor(0.01), 0.0)
    for rows in ([0, 2], [2, 5], [1, 2]):
        gradient = torch.randn(2, 3, generator=GENERATOR)
        table.grad = torch.sparse_coo_tensor(torch.tensor([rows]), gradient, (6, 3), check_invariants=True)
        masked.grad = table.grad.to_dense()
        sparse.step()
        mine.step()
    assert torch.allclose(masked, table, atol=1e-6)
    assert torch.equal(masked[[3, 4]], start[[3, 4]])
