"""Training, validation and scoring as signs of life. Always on; not a choice of `callback=`."""

from typing import Any

import pytorch_lightning as lightning

from recsys_collapse.runs.heartbeat import beat


class Heartbeat(lightning.Callback):
    """Beats after every batch."""

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        beat()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        beat()

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        beat()
