"""The cost of a recipe before it runs: samples, tokens and hours of each stage, and the charges of endpoints.

Hours are tokens divided by the machine's rates, scaled by the size of the model relative to the one measured there: the cost
of a token is proportional to the parameters (2 operations per parameter to read it, 6 to train on it).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from character.core.errors import UserError
from character.core.params import PARAMS_FILE
from character.study import rates, recipes
from character.study.rates import MachineRates, RateTables
from character.study.workload import StageWorkload, WorkloadModel

READ_SPEEDUP = 3  # speed of reading relative to training, if it is not given: 2 operations instead of 6
LARGE_PARAMETERS = 1  # billions of parameters from which the estimate also lists costs that others report
ESTIMATE_COLUMNS = ("stage", "samples", "tokens read", "written", "trained", "hours")


@dataclass(frozen=True)
class EstimateOptions:
    """The machine, by name or by its rates for the student in tokens per second; the student's parameters in billions."""

    machine: str
    parameters: float | None
    written: float | None
    trained: float | None


def estimate_recipe(name: str, options: EstimateOptions) -> str:
    """Return the estimate of a recipe and its assumptions as text.

    Raises:
        UserError: the recipe, the machine, a model or a task is unknown, or only one of two rates is given.
    """
    params, _ = recipes.apply_recipe(name)
    known = rates.load_rates()
    size = options.parameters or known.billion_parameters(params["student"]["source"])
    machine = _choose_machine(options, known, size)
    works = WorkloadModel(params, known).stage_workloads()
    rows = [(work, stage_hours(work, machine, size, known)) for work in works]
    remote = [work for work, _ in rows if work.engine == "openai"]
    lines = [f"{name} for {params['persona']}: a student of {size:g} billion parameters on {machine.about}", ""]
    lines += [*_table_lines(rows), ""]
    if remote:
        lines.append(_endpoint_charges(remote, params["runtime"]["openai"]["prices"]))
    return "\n".join([*lines, *_basis_lines(machine, size, known)])


def _choose_machine(options: EstimateOptions, known: RateTables, size: float) -> MachineRates:
    if bool(options.written) != bool(options.trained):
        raise UserError("--written-per-second and --trained-per-second belong together; give both.")
    if options.written:
        found = {"written": options.written, "trained": options.trained, "read": READ_SPEEDUP * options.trained}
        return MachineRates(about="a machine with the given rates", parameters=size, start=0.0, **found)
    return known.find_machine(options.machine)


def stage_hours(work: StageWorkload, machine: MachineRates, student: float, known: RateTables) -> float | None:
    """Return the hours on the machine, or None for work that endpoints do; `student` is billions of parameters."""
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
    summary = f"Endpoints: {sum(work.samples for work in works):,.0f} replies, {read / 1e6:.1f} million tokens read, "
    summary += f"{written / 1e6:.1f} million written"
    if not any(prices):
        return f"{summary}; set runtime.openai.prices in {PARAMS_FILE} to see what they cost."
    return f"{summary}: {(read * prices[0] + written * prices[1]) / 1e6:,.2f} by runtime.openai.prices."


def _basis_lines(machine: MachineRates, size: float, known: RateTables) -> Iterator[str]:
    """Yield a sentence on each thing that is measured or assumed."""
    if machine in known.machines.values():
        yield (
            f"Rates: measured with {machine.parameters:g} billion parameters (see {rates.RATES_FILE}); "
            "the time may be half or twice as long."
        )
    if size > machine.parameters:
        yield (
            f"Hours: extrapolated by a factor of {size / machine.parameters:.0f}, which was never checked. Give the rates of "
            "your machine with this student: --written-per-second and --trained-per-second."
        )
    yield f"Lengths of texts: assumed, or their limits if lower (see {rates.RATES_FILE}). Downloads are not included."
    if size >= LARGE_PARAMETERS:
        yield from (f"Reported by others: {line}." for line in known.reported)
