import logging

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from clf.callbacks.model_summary import ModelSummary
from clf.errors import UserError


class Toy(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(1000, 999)
        self.head = torch.nn.Linear(999, 2)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss: torch.Tensor = self.head(self.body(batch)).sum()
        return loss

    def train_dataloader(self) -> torch.utils.data.DataLoader[torch.Tensor]:
        return torch.utils.data.DataLoader([torch.ones(1000)] * 2)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def said(module: Toy, callback: ModelSummary, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO, logger="clf")
    trainer = Trainer(
        max_steps=1,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(module)
    return "\n".join(caplog.messages)


def test_the_size_of_the_network_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert said(Toy(), ModelSummary(), caplog) == "network: 1.00 M parameters, all trained"


def test_frozen_parameters_do_not_count_as_trained(caplog: pytest.LogCaptureFixture) -> None:
    module = Toy()
    module.body.requires_grad_(False)
    assert said(module, ModelSummary(), caplog) == "network: 1.00 M parameters, 2,000 trained"


def test_max_depth_adds_a_table_of_modules(caplog: pytest.LogCaptureFixture) -> None:
    text = said(Toy(), ModelSummary(max_depth=1), caplog)
    assert "body" in text
    assert "head" in text


def test_a_depth_that_means_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="max_depth=-2"):
        ModelSummary(max_depth=-2)
