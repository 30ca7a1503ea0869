"""The persona that params.yaml selects."""

from pathlib import Path

from character import constitution
from character.errors import UserError
from character.params import value

FOLDER = Path("constitutions")


def selected() -> constitution.Constitution:
    """Return the constitution of the selected persona, which must be one of the files in constitutions/ and no path elsewhere.

    Raises:
        UserError: there is none of that name, or it has faults.
    """
    name, known = value("persona"), sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"params.yaml: persona is {name!r}, but {FOLDER}/ has {', '.join(known) or 'no file'}; choose one of its."
        )
    return constitution.load(FOLDER / f"{name}.yaml")
