"""recipes/rates.yaml: the speed of machines, the lengths of texts and the sizes of models."""

from pydantic import Field, ValidationError

from character.core.errors import UserError
from character.core.params import ParamsSection, describe_first_error, load_yaml
from character.core.text_input import read_utf8
from character.study import recipes

RATES_FILE = recipes.RECIPES_DIR / f"{recipes.RATES_NAME}.yaml"


class MachineRates(ParamsSection):
    """Tokens per second with a model of `parameters` billions, and the seconds that a command needs to start."""

    about: str
    parameters: float = Field(gt=0)
    written: float = Field(gt=0)
    trained: float = Field(gt=0)
    read: float = Field(gt=0)
    start: float = Field(ge=0)


class TextLengths(ParamsSection):
    """Tokens of texts that no limit cuts off; `word`: of one word, `template`: of the chat template around a turn."""

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
    tokens: int  # read for one item


class RateTables(ParamsSection):
    machines: dict[str, MachineRates]
    lengths: TextLengths
    models: dict[str, float]  # billions of parameters by a part of the model's name
    tasks: dict[str, TaskSize]
    reported: list[str]

    def find_machine(self, name: str) -> MachineRates:
        if name not in self.machines:
            raise UserError(f"--machine: {name} is not in {RATES_FILE}, which has {', '.join(self.machines)}; add it there.")
        return self.machines[name]

    def billion_parameters(self, source: str) -> float:
        """Return the parameters of a model in billions.

        Raises:
            UserError: the table has no part of its name.
        """
        for part, size in self.models.items():
            if part in source:
                return size
        raise UserError(
            f"{RATES_FILE}: models: {source!r} matches none of them; add its parameters, or give --parameters for a student."
        )

    def find_task(self, name: str) -> TaskSize:
        if name not in self.tasks:
            raise UserError(
                f"{RATES_FILE}: tasks: {name} is missing; add its number of items and the tokens that are read for one."
            )
        return self.tasks[name]


def load_rates() -> RateTables:
    try:
        return RateTables.model_validate(load_yaml(RATES_FILE, read_utf8(RATES_FILE), recipes.safe_yaml()))
    except ValidationError as error:
        raise UserError(f"{RATES_FILE}: {describe_first_error(error)}") from None
