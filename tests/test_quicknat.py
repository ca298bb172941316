"""The network: shapes, size, and gradients everywhere."""

from __future__ import annotations

import pytest
import torch

from bt.quicknat import QuickNAT, WrongInputShape


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("classes", "filters", "height", "width"), [(3, 8, 48, 32), (20, 16, 32, 32), (2, 4, 64, 16)]
)
def test_logits_have_the_shape_of_the_slices(
    classes: int, filters: int, height: int, width: int
) -> None:
    logits = QuickNAT(classes, filters)(torch.randn(2, 1, height, width))
    assert logits.shape == (2, classes, height, width)


def test_the_papers_network_has_about_three_and_a_half_million_parameters() -> None:
    assert parameters(QuickNAT(20)) == pytest.approx(3.5e6, rel=0.02)


def test_every_parameter_gets_a_gradient() -> None:
    model = QuickNAT(3, filters=4)
    model(torch.randn(2, 1, 32, 32)).square().mean().backward()
    # A bias before a batch norm may have none by cancellation; a weight never.
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("2.weight"):
            assert parameter.grad.abs().max() > 0, name


def test_activations_stay_channels_last() -> None:
    model = QuickNAT(5, filters=8).to(memory_format=torch.channels_last)
    layouts = {}

    def note(name: str, output: torch.Tensor) -> None:
        layouts[name] = output.is_contiguous(memory_format=torch.channels_last)

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, o, name=name: note(name, o))
    model(torch.randn(2, 1, 32, 32))
    assert layouts
    assert [name for name, last in layouts.items() if not last] == []


def test_in_bfloat16_nothing_falls_back_to_float32() -> None:
    """One float32 operand makes all it is concatenated with float32, at twice the memory."""
    model = QuickNAT(5, filters=8).to(memory_format=torch.channels_last)
    dtypes = {}
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(
                lambda m, given, name=name: dtypes.update({name: given[0].dtype})
            )
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 1, 32, 32)).float().mean().backward()
    assert set(dtypes.values()) == {torch.bfloat16}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_input_may_be_a_view() -> None:
    model = QuickNAT(3, filters=4).eval()
    whole = torch.randn(3, 1, 48, 64)
    with torch.no_grad():
        from_view = model(whole[1:, :, 8:40, 16:48])
        from_copy = model(whole[1:, :, 8:40, 16:48].clone())
    torch.testing.assert_close(from_view, from_copy)


def test_what_is_seen_far_away_matters() -> None:
    """Four poolings: a pixel's logits depend on pixels more than 40 away, on every side."""
    model = QuickNAT(2, filters=4).eval()
    slices = torch.randn(1, 1, 128, 128, requires_grad=True)
    model(slices)[0, :, 64, 64].sum().backward()
    assert slices.grad is not None
    rows, columns = slices.grad[0, 0].nonzero().unbind(dim=1)
    assert min(64 - rows.min(), rows.max() - 64, 64 - columns.min(), columns.max() - 64) > 40


def test_features_keep_their_scale_at_the_start() -> None:
    """He initialisation: logits of unit-scale slices start neither dead nor sure of themselves."""
    torch.manual_seed(0)
    logits = QuickNAT(5, filters=8)(torch.randn(4, 1, 64, 64))
    assert 0.3 < logits.std() < 5


@pytest.mark.parametrize("shape", [(2, 1, 40, 48), (2, 3, 32, 32), (1, 32, 32)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongInputShape, match="multiples of 16"):
        QuickNAT(3, filters=4)(torch.zeros(shape))
