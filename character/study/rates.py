"""recipes/rates.yaml: how fast machines are, how long texts are, how large models are."""

from pydantic import Field, ValidationError

from character.core.errors import UserError
from character.core.params import Section, first_fault
from character.study import recipes

FILE = recipes.FOLDER / f"{recipes.RATES}.yaml"


class Machine(Section):
    """Tokens a second by a model of `parameters` billions, and the seconds that a command takes to start."""

    about: str
    parameters: float = Field(gt=0)
    written: float = Field(gt=0)
    trained: float = Field(gt=0)
    read: float = Field(gt=0)
    start: float = Field(ge=0)


class Lengths(Section):
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


class Task(Section):
    items: int
    tokens: int  # that are read for one


class Rates(Section):
    machines: dict[str, Machine]
    lengths: Lengths
    models: dict[str, float]  # billions of parameters, by a part of the model's name
    tasks: dict[str, Task]
    reported: list[str]

    def machine(self, name: str) -> Machine:
        if name not in self.machines:
            raise UserError(f"--machine: {name} is not in {FILE}, which has {', '.join(self.machines)}; add it there.")
        return self.machines[name]

    def size(self, source: str) -> float:
        """Return the billions of parameters of a model."""
        for part, size in self.models.items():
            if part in source:
                return size
        raise UserError(f"{FILE}: models: {source!r} is none of them; add its parameters, or give --parameters for a student.")

    def task(self, name: str) -> Task:
        if name not in self.tasks:
            raise UserError(f"{FILE}: tasks: {name} is missing; add its items, and the tokens that are read for one.")
        return self.tasks[name]


def load() -> Rates:
    try:
        return Rates.model_validate(recipes.safe_yaml().load(FILE))
    except ValidationError as error:
        raise UserError(f"{FILE}: {first_fault(error)}") from None
