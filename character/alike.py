"""When two prompts are the same one, for what is trained on and what is tested."""

ALIKE = 0.6  # two prompts that share this part of their words are the same one


def alike(text: str, other: str) -> bool:
    """Return whether two texts share most of the words that either has, so that a long text is not alike to every short one."""
    ours, theirs = ({word.strip(".,;:!?\"'()").lower() for word in one.split()} for one in (text, other))
    return len(ours & theirs) >= ALIKE * len(ours | theirs)
