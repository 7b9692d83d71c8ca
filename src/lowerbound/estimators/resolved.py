"""What the arguments of an estimator that are "auto" or None stand for, given the rows that it was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowerbound import objectives
from lowerbound.estimators.choices import LAST_STEPS, Choice, choose, is_auto
from lowerbound.estimators.fitted import Fitted
from lowerbound.estimators.learning import default_draws, inference_for, is_aevb, name_of, taken_by
from lowerbound.gradients import Objective
from lowerbound.inference import Inference
from lowerbound.model import LatentVariableModel

_IWAE_DRAWS = 20  # default draws of "iwae", the default objective if cells are missing. Mattei & Frellsen 2019


class Resolved(Fitted):
    """The objective, the draws and the settings of an estimator, and its inference."""

    objective: str | Objective
    draws: int | None
    free_bits: float
    epochs: Any
    classes: Any
    has_missing_: bool
    chosen_: dict[str, Choice]
    get_params: Callable[..., dict[str, Any]]
    _is_bound: bool

    @property
    def objective_is_bound(self) -> bool:
        """Whether ``fit`` maximises a known lower bound on log p(x); False if the KL is weighted or has free bits."""
        return self._inference().is_bound if is_aevb(self.inference) else self._is_bound

    @property
    def objective_(self) -> str | Objective:
        """The objective, with "auto" resolved; for an inference that has none, its name."""
        if "objective" not in taken_by(self.inference):
            return name_of(self.inference)
        if self.objective != "auto":
            return self.objective
        if self.classes is not None:
            return "elbo_enumerated"
        return "iwae" if self.has_missing_ and not self.free_bits else "elbo"

    @property
    def draws_(self) -> int:
        """The number of draws, with None resolved."""
        if self.draws is not None:
            return self.draws
        return _IWAE_DRAWS if self.objective_ in ("iwae", objectives.iwae) else default_draws(self.inference)

    def _choose(self, rows: int) -> dict[str, Choice]:
        """Values for the arguments that are "auto"."""
        return choose(self.get_params(deep=False), rows, self.schema_ is not None)

    def _settings(self) -> dict[str, Any]:
        """The arguments, with what was chosen in place of "auto"."""
        chosen = {name: choice.value for name, choice in self.chosen_.items()}
        last = is_auto(self.epochs) and self.schema_ is not None and is_aevb(self.inference)
        return {**self.get_params(deep=False), **chosen, "finish": LAST_STEPS if last else None}

    def _inference(self) -> Inference[LatentVariableModel]:
        settings = self._settings() | {"objective": self.objective_, "draws": self.draws_}
        settings["label_weight"] /= getattr(self, "label_share_", 1.0)
        return inference_for(settings, self.model_, self._posterior)
