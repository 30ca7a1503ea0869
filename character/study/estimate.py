"""What a recipe costs, before anything starts: replies, tokens and hours by stage, and what endpoints will charge.

Hours are tokens over a machine's rates, times how much larger a model is than the one that was measured there: the cost of
a token grows as the parameters do (2 operations a parameter to read it, 6 to train on it).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from character.core.errors import UserError
from character.core.params import PARAMS_FILE
from character.study import rates, recipes
from character.study.rates import MachineRates, RateTables
from character.study.workload import StageWorkload, WorkloadModel

READ_SPEEDUP = 3  # times as fast as training is reading, where nobody says: 2 operations instead of 6
LARGE_PARAMETERS = 1  # billions of parameters, from which what others report is told
ESTIMATE_COLUMNS = ("stage", "samples", "tokens read", "written", "trained", "hours")


@dataclass(frozen=True)
class EstimateOptions:
    """What the user says of the machine: its name, or its rates for the student; billions of parameters of the student."""

    machine: str
    parameters: float | None
    written: float | None
    trained: float | None


def estimate_recipe(name: str, asked: EstimateOptions) -> str:
    """Return the estimate of a recipe, with what it rests on, as text."""
    params, _ = recipes.apply_recipe(name)
    known = rates.load_rates()
    size = asked.parameters or known.billion_parameters(params["student"]["source"])
    machine = _choose_machine(asked, known, size)
    works = WorkloadModel(params, known).stage_workloads()
    rows = [(work, stage_hours(work, machine, size, known)) for work in works]
    remote = [work for work, _ in rows if work.engine == "openai"]
    lines = [f"{name} for {params['persona']}: a student of {size:g} billion parameters on {machine.about}", ""]
    lines += [*_table_lines(rows), ""]
    if remote:
        lines.append(_endpoint_charges(remote, params["runtime"]["openai"]["prices"]))
    return "\n".join([*lines, *_basis_lines(machine, size, known)])


def _choose_machine(asked: EstimateOptions, known: RateTables, size: float) -> MachineRates:
    if bool(asked.written) != bool(asked.trained):
        raise UserError("--written-per-second and --trained-per-second belong together; give both.")
    if asked.written:
        found = {"written": asked.written, "trained": asked.trained, "read": READ_SPEEDUP * asked.trained}
        return MachineRates(about="a machine of the rates that were given", parameters=size, start=0.0, **found)
    return known.find_machine(asked.machine)


def stage_hours(work: StageWorkload, machine: MachineRates, student: float, known: RateTables) -> float | None:
    """Return the hours on the machine; None for what others compute."""
    if work.engine == "openai":
        return None
    size = student if work.engine in ("student", "none", "recorded") else known.billion_parameters(work.source)
    seconds = work.read / machine.read + work.written / machine.written + work.trained / machine.trained
    return (seconds * size / machine.parameters + work.runs * machine.start) / 3600


def _table_lines(rows: Sequence[tuple[StageWorkload, float | None]]) -> Iterator[str]:
    cells = [ESTIMATE_COLUMNS, *(_row_cells(work, hours) for work, hours in rows), _row_cells(*_sum_row(rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for (stage, *numbers), (first, *others) in ((row, widths) for row in cells):
        yield "  ".join([stage.ljust(first), *map(str.rjust, numbers, others)])


def _row_cells(work: StageWorkload, hours: float | None) -> tuple[str, ...]:
    counts = (f"{number:,.0f}" if number else "" for number in (work.samples, work.read, work.written, work.trained))
    return (work.stage, *counts, "endpoint" if hours is None else f"{hours:,.2f}")


def _sum_row(rows: Sequence[tuple[StageWorkload, float | None]]) -> tuple[StageWorkload, float]:
    totals = {name: sum(getattr(work, name) for work, _ in rows) for name in ("samples", "read", "written", "trained")}
    return replace(StageWorkload("sum"), **totals), sum(hours for _, hours in rows if hours is not None)


def _endpoint_charges(works: Sequence[StageWorkload], prices: Sequence[float]) -> str:
    read, written = sum(work.read for work in works), sum(work.written for work in works)
    told = f"Endpoints: {sum(work.samples for work in works):,.0f} replies, {read / 1e6:.1f} million tokens read, "
    told += f"{written / 1e6:.1f} million written"
    if not any(prices):
        return f"{told}; set runtime.openai.prices in {PARAMS_FILE} to see what they cost."
    return f"{told}: {(read * prices[0] + written * prices[1]) / 1e6:,.2f} by runtime.openai.prices."


def _basis_lines(machine: MachineRates, size: float, known: RateTables) -> Iterator[str]:
    """Yield what is measured, and what is assumed."""
    if machine in known.machines.values():
        yield f"Rates: measured with {machine.parameters:g} billion parameters (see {rates.RATES_FILE}); half or twice is possible."
    if size > machine.parameters:
        yield (
            f"Hours are those times {size / machine.parameters:.0f}, which nobody has measured. Give the rates of your machine "
            "with this student: --written-per-second and --trained-per-second."
        )
    yield f"Lengths of texts: assumed, or their limits where those are lower (see {rates.RATES_FILE}). Downloads are not counted."
    if size >= LARGE_PARAMETERS:
        yield from (f"Reported by others: {line}." for line in known.reported)
