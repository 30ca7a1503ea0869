"""recipes/rates.yaml: how fast machines are, how long texts are, how large models are."""

from pydantic import Field, ValidationError

from character.core.errors import UserError
from character.core.params import ParamsSection, describe_first_error
from character.study import recipes

RATES_FILE = recipes.RECIPES_DIR / f"{recipes.RATES_NAME}.yaml"


class MachineRates(ParamsSection):
    """Tokens a second by a model of `parameters` billions, and the seconds that a command takes to start."""

    about: str
    parameters: float = Field(gt=0)
    written: float = Field(gt=0)
    trained: float = Field(gt=0)
    read: float = Field(gt=0)
    start: float = Field(ge=0)


class TextLengths(ParamsSection):
    """Tokens of texts that nothing cuts off; `word`: of one word, `template`: of a turn's frame."""

    word: float = Field(gt=0)
    template: int
    answer: int
    reflection: int
    turn: int
    expanded: int
    outside: int
    reasoning: int
    verdict: int


class TaskSize(ParamsSection):
    items: int
    tokens: int  # that are read for one


class RateTables(ParamsSection):
    machines: dict[str, MachineRates]
    lengths: TextLengths
    models: dict[str, float]  # billions of parameters, by a part of the model's name
    tasks: dict[str, TaskSize]
    reported: list[str]

    def find_machine(self, name: str) -> MachineRates:
        if name not in self.machines:
            raise UserError(f"--machine: {name} is not in {RATES_FILE}, which has {', '.join(self.machines)}; add it there.")
        return self.machines[name]

    def billion_parameters(self, source: str) -> float:
        """Return the billions of parameters of a model."""
        for part, size in self.models.items():
            if part in source:
                return size
        raise UserError(
            f"{RATES_FILE}: models: {source!r} is none of them; add its parameters, or give --parameters for a student."
        )

    def find_task(self, name: str) -> TaskSize:
        if name not in self.tasks:
            raise UserError(f"{RATES_FILE}: tasks: {name} is missing; add its items, and the tokens that are read for one.")
        return self.tasks[name]


def load_rates() -> RateTables:
    try:
        return RateTables.model_validate(recipes.safe_yaml().load(RATES_FILE))
    except ValidationError as error:
        raise UserError(f"{RATES_FILE}: {describe_first_error(error)}") from None
