import pytest
import torch

from brainenc.training import (
    Constant,
    Cosine,
    Examples,
    OneCycle,
    StepDecay,
    TrainingSettings,
    train,
)

N_STEPS, STEPS_PER_EPOCH, RATE = 40, 4, 0.02
lr_scheduler = torch.optim.lr_scheduler


def torchs(make):
    """Learning rate and first β of each step, as a scheduler of torch sets them."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, seen = make(optimizer), []
    for step in range(N_STEPS):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0]))
        optimizer.step()
        if step + 1 < N_STEPS:
            scheduler.step()
    return seen


def by_epoch(optimizer):
    return lr_scheduler.StepLR(optimizer, step_size=3 * STEPS_PER_EPOCH, gamma=0.8)


def warm_cosine(optimizer):
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    return lr_scheduler.ChainedScheduler(
        [warmup, lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)]
    )


def one_cycle(**options):
    def make(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=N_STEPS, **options)

    return make


CASES = {
    "constant": (Constant(), 0, lambda o: lr_scheduler.ConstantLR(o, factor=1)),
    "cosine": (Cosine(), 0, lambda o: lr_scheduler.CosineAnnealingLR(o, N_STEPS)),
    "cosine to 10 %": (
        Cosine(final=0.1),
        0,
        lambda o: lr_scheduler.CosineAnnealingLR(o, N_STEPS, eta_min=RATE / 10),
    ),
    "warm cosine": (Cosine(), 5, warm_cosine),
    "step": (StepDecay(every=3, gamma=0.8), 0, by_epoch),
    "one cycle": (OneCycle(), 0, one_cycle()),
    "MindSimulator": (
        OneCycle(pct_start=2 / 10, final_div=1000),
        0,
        one_cycle(pct_start=2 / 10, final_div_factor=1000),
    ),
    "one cycle, fixed momentum": (
        OneCycle(pct_start=0.5, div=4, momentum_range=None),
        0,
        one_cycle(pct_start=0.5, div_factor=4, cycle_momentum=False),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loop_uses_the_rates_of_torchs_scheduler(case, monkeypatch):
    schedule, warmup_steps, make = CASES[case]
    seen = []
    step = torch.optim.AdamW.step

    def spied(self, *args, **kwargs):
        seen.append((self.param_groups[0]["lr"], self.param_groups[0]["betas"][0]))
        return step(self, *args, **kwargs)

    expected = torchs(make)
    monkeypatch.setattr(torch.optim.AdamW, "step", spied)
    train(
        torch.nn.Linear(2, 1),
        lambda module, batch: {"loss": module(batch["x"]).mean()},
        Examples(x=torch.ones(8, 2).numpy()),
        TrainingSettings(
            n_steps=N_STEPS,
            batch_size=2,
            learning_rate=RATE,
            schedule=schedule,
            warmup_steps=warmup_steps,
        ),
        device="cpu",
    )
    # The recursions of torch round once a step, in float64.
    torch.testing.assert_close(torch.tensor(seen).double(), torch.tensor(expected).double())
    assert len(seen) == N_STEPS
