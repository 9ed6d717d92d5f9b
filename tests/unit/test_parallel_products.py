"""Gradients added by the product itself are those that are handed over, less one rounding."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from beear.parallel.masters import Masters
from beear.parallel.products import _by_one_kernel, _by_two, add_in_products
from beear.testing.inner import gap

HALF, CPU = torch.bfloat16, torch.device("cpu")


class Tied(nn.Module):
    """An embedding, a biased layer of its own, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.inner, self.head = nn.Embedding(24, 16), nn.Linear(16, 16), nn.Linear(16, 24, bias=False)
        self.head.weight = self.table.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.table(ids))))


def learned(added: bool, passes: int = 3) -> tuple[Tied, Masters]:
    model = Tied()
    masters = Masters(model, HALF, CPU, first=True)
    if added:
        names = {name: p for name, p in model.named_parameters()}
        assert add_in_products(model, {id(names[name]): masters.trained[name] for name in masters._copies}) == 2
        assert add_in_products(model, {id(names[name]): masters.trained[name] for name in masters._copies}) == 0
    for number in range(passes):
        ids = torch.randint(0, 24, (4, 7), generator=torch.Generator().manual_seed(number))
        with torch.autocast("cpu", HALF):
            loss = model(ids).float().log_softmax(-1)[..., 3].mean()
        loss.backward()
    return model, masters


def test_the_sum_is_the_one_that_is_handed_over() -> None:
    (model, new), (_, old) = learned(added=True), learned(added=False)
    assert model.inner.weight.grad is None
    for name, weight in new.trained.items():
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        # bfloat16 keeps 8 bits: the handed-over gradients were rounded to them.
        assert gap(weight.grad, old.trained[name].grad) <= 2**-8, name


def test_a_single_layers_gradient_is_not_rounded() -> None:
    layer = nn.Sequential(nn.Linear(16, 8, bias=False))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).to(HALF)
    layer[0].weight.data = layer[0].weight.detach().to(HALF)
    master = nn.Parameter(layer[0].weight.detach().float())
    assert add_in_products(layer, {id(layer[0].weight): master}) == 1
    x.requires_grad_(True)
    for _ in range(2):
        with torch.autocast("cpu", HALF):
            layer(x).float().square().sum().backward()
    y = x.detach() @ layer[0].weight.detach().t()
    expected = 2 * ((2 * y.float()).to(HALF).float().t() @ x.detach().float())
    assert master.grad is not None
    assert gap(master.grad, expected) <= 1e-6
    assert x.grad is not None
    assert gap(x.grad.float(), 2 * ((2 * y.float()) @ master.detach())) <= 2**-6


def test_what_follows_may_change_the_result_in_place() -> None:
    layer = nn.Linear(8, 4)
    layer.weight.data = layer.weight.detach().to(HALF)
    master = nn.Parameter(layer.weight.detach().float())
    add_in_products(nn.Sequential(layer), {id(layer.weight): master})
    with torch.autocast("cpu", HALF):
        y = layer(torch.ones(2, 3, 8))
        y.clamp_(-1, 1)
        assert layer(torch.ones(8)).shape == (4,)
    y.float().sum().backward()
    assert master.grad is not None and layer.bias.grad is not None


def test_layers_that_are_computed_again_add_once() -> None:
    def gradients(again: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        masters = {}
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.data = weight.detach().to(HALF)
                masters[name] = nn.Parameter(weight.detach().float())
        weights = dict(model.named_parameters())
        add_in_products(model, {id(weights[name]): master for name, master in masters.items()})
        x = torch.ones(3, 8, requires_grad=True)
        with torch.autocast("cpu", HALF):
            y = checkpoint(model, x, use_reentrant=False) if again else model(x)
        y.float().square().sum().backward()
        return {name: master.grad for name, master in masters.items() if master.grad is not None}

    once, twice = gradients(again=False), gradients(again=True)
    assert list(once) == list(twice) == ["0.weight", "2.weight"]
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_nothing_is_added_while_weights_are_frozen() -> None:
    model, masters = learned(added=True, passes=0)
    for weight in model.parameters():
        weight.requires_grad_(False)
    hidden = torch.zeros(2, 3, 16, requires_grad=True)
    with torch.autocast("cpu", HALF):
        model.inner(hidden).float().sum().backward()
    assert hidden.grad is not None
    assert all(weight.grad is None for weight in masters.trained.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the one kernel is a GPU's")
def test_one_kernel_adds_what_two_do() -> None:
    one, other = torch.randn(32, 64, device="cuda").to(HALF), torch.randn(64, 48, device="cuda").to(HALF)
    total = _by_one_kernel(_by_one_kernel(None, one, other), one, other)
    assert gap(total, _by_two(_by_two(None, one, other), one, other)) <= 1e-5
