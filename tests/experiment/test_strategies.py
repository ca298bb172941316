"""Every method has the same budget, and does what its name says."""

from __future__ import annotations

import pytest
import torch

from bt.experiment import plan, strategies
from bt.experiment.clients import Clients
from bt.experiment.strategies import STRATEGIES, Round
from bt.weights import FlatWeights
from tests.experiment.small import EPOCHS, clients, close, network, same, trainer, trainers
from transports import image

FEDERATED = [method for method in plan.METHODS if method != plan.POOLED]


def run(method: str, of: dict | None = None, rounds: int = 3) -> list[Round]:  # type: ignore[type-arg]
    of = of or trainers()
    return list(STRATEGIES[method](clients(of, rounds), 0, None))


@pytest.mark.parametrize("method", FEDERATED)
def test_every_client_has_the_same_updates_batches_and_rates_whatever_the_method(
    method: str,
) -> None:
    expected, found = trainers(), trainers()
    for one in expected.values():
        for update in range(3):
            one.fit(EPOCHS, update, lambda: False)
    rounds = run(method, found)
    assert {name: one.seen for name, one in found.items()} == {
        name: one.seen for name, one in expected.items()
    }
    assert len(rounds) == 3
    rates = [rate for update, rate, _ in found["peer-2"].seen]
    assert rates[0] == 2 * rates[-1], "the rate was never halved: nothing was compared"


def test_pooled_has_as_many_epochs_over_all_scans() -> None:
    found = {"pooled": trainer(0, scans=6)}
    rounds = run(plan.POOLED, found)
    steps = [sum(len(batch) for _, _, batch in one.seen) for one in trainers_that_ran()]
    assert sum(len(batch) for _, _, batch in found["pooled"].seen) == sum(steps)
    assert [one.clients for one in rounds] == [{}] * 3
    assert rounds[-1].aggregated is not None
    assert same(rounds[-1].aggregated, found["pooled"].weights())


def trainers_that_ran() -> list:  # type: ignore[type-arg]
    found = trainers()
    run(plan.ONLY_CLIENT, found)
    return list(found.values())


@pytest.mark.parametrize("method", plan.METHODS)
def test_all_start_from_the_same_weights(method: str) -> None:
    """At a rate of nothing, only batch-norm statistics move."""
    found = {"pooled": trainer(0)} if method == plan.POOLED else trainers()
    for one in found.values():
        one.learning_rate = lambda update: 0.0  # type: ignore[method-assign]
    last = run(method, found)[-1]
    models = [*last.clients.values(), *([last.aggregated] if last.aggregated else [])]
    assert models
    start = FlatWeights.of(network()).tensors()["0.weight"]
    for model in models:
        assert torch.allclose(model.tensors()["0.weight"], start, atol=1e-7)


def test_fedavg_is_the_average_by_scans_of_models_trained_from_the_last_average() -> None:
    found = run(plan.FEDAVG, rounds=2)
    by_hand = trainers()
    start: FlatWeights | None = None
    for update in range(2):
        for one in by_hand.values():
            if start is not None:
                start.load_into(one.model)
            one.fit(EPOCHS, update, lambda: False)
        first = by_hand["peer-0"].model.state_dict()
        average = {name: value.clone() for name, value in first.items()}
        for name, value in average.items():
            if value.is_floating_point():
                states = [(one.samples, one.model.state_dict()[name]) for one in by_hand.values()]
                value.copy_(sum(samples / 6 * of_one.double() for samples, of_one in states))
        expected = FlatWeights.of(average)
        start = found[update].aggregated  # rounding would grow in the next fine-tune
        assert start is not None
        assert close(start, expected)
    for name, model in found[-1].clients.items():
        assert same(model, by_hand[name].weights()), "clients are scored after their fine-tune"
    assert found[-1].nbytes == 2 * 3 * 2 * image.nbytes(expected.schema)


def test_only_client_never_meets_another() -> None:
    alone = trainer(1, scans=2)
    for update in range(3):
        alone.fit(EPOCHS, update, lambda: False)
    last = run(plan.ONLY_CLIENT)[-1]
    assert same(last.clients["peer-1"], alone.weights())
    assert last.aggregated is None
    assert last.nbytes == 0


def test_cyclic_passes_one_model_on() -> None:
    last = run(plan.CYCLIC)[-1]
    by_hand = trainers()
    model = None
    for update in range(3):
        for one in by_hand.values():
            if model is not None:
                one.load(model)
            one.fit(EPOCHS, update, lambda: False)
            model = one.weights()
    assert model is not None
    assert last.aggregated is not None
    assert same(last.aggregated, model)
    assert last.nbytes == (3 * 3 - 1) * image.nbytes(model.schema)


def test_a_round_of_braintorrent_is_an_update_per_client() -> None:
    found = clients(trainers())
    for number, one in enumerate(strategies.braintorrent(found, 0, None), start=1):
        assert sum(found._updates.values()) == 3 * number
        assert one.aggregated is not None
        assert close(one.aggregated, found.average(one.clients))


def test_an_old_model_may_count_less_in_braintorrent() -> None:
    def last(stale_weight: float) -> FlatWeights:
        found = Clients(trainers(), rounds=3, epochs=EPOCHS, stale_weight=stale_weight)
        *_, one = strategies.braintorrent(found, 0, None)
        assert one.aggregated is not None
        return one.aggregated

    assert not close(last(1.0), last(0.1))
    assert same(last(0.1), last(0.1))
