"""`character chat`: a conversation in the terminal, with the replies side by side while they are generated."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from character.chat.session import CHAT_METHODS, ChatReply, ChatSession, ChatTurn
from character.chat.transcript import TranscriptFile
from character.core.errors import UserError
from character.core.params import read_value
from character.core.safe_text import print_text, replace_controls, safe_text
from character.publish.registry import find_persona, list_personas, persona_notices

TRANSCRIPT_DIR = Path(".cache/chats")
MIN_REPLY_WIDTH = 30  # characters that each reply needs to be shown side by side
CUT_OFF_MARKS = {"length": " [cut off at the token limit]", "interrupted": " [interrupted]"}
CHAT_COMMANDS = {
    "/persona NAME": "talk with another persona",
    "/personas": "list them",
    "/again": "answer the last turn again",
    "/save FILE": "move the transcript to a file",
    "/quit": "or Ctrl-D; Ctrl-C ends a reply",
}


class TerminalChat:
    """A chat session with its console and its transcript."""

    def __init__(self, chat: ChatSession, transcript: TranscriptFile, console: Console):
        self._chat, self._transcript, self._console = chat, transcript, console

    def handle_lines(self, lines: Iterable[str]) -> None:
        """Handle each line as a command or a message, until `/quit` or the last line."""
        self._print_note("; ".join(f"{command}: {does}" for command, does in CHAT_COMMANDS.items()))
        self._print_persona()
        for line in lines:
            try:
                if not self._handle_command(line.strip()):
                    break
            except UserError as error:
                self._print_note(error.message)
            except KeyboardInterrupt:
                self._print_note("Interrupted.")
        self._print_note(f"Transcript: {self._transcript.path}")

    def _handle_command(self, line: str) -> bool:
        """Handle one line; return whether the chat continues."""
        command, _, argument = line.partition(" ")
        match command, argument.strip():
            case "/quit", "":
                return False
            case "/personas", "":
                self._print_note("\n".join(map(str, list_personas())))
            case "/persona", name if name:
                self._switch_persona(name)
            case "/again", "":
                self._show_turn(self._chat.regenerate())
            case "/save", file if file:
                self._transcript.move_to(Path(file).expanduser())
                self._print_note(f"The transcript is now in {file}.")
            case _ if line.startswith("/"):
                raise UserError(f"`{line}` is not a command; the commands are {', '.join(CHAT_COMMANDS)}.")
            case _ if line:
                self._show_turn(self._chat.begin_turn(line))
        return True

    def _switch_persona(self, name: str) -> None:
        with self._console.status(Text(safe_text(f"Looking for {name}"))):
            self._chat.switch_persona(find_persona(name))
        self._print_persona()
        self._print_note("All conversations start again.")

    def _print_persona(self) -> None:
        self._print_note(f"Persona: {self._chat.persona}")
        for warning in persona_notices(self._chat.persona) if "persona" in self._chat.methods else ():
            self._print_note(warning)

    def _show_turn(self, turn: ChatTurn) -> None:
        """Show the answers of a turn while they are generated, then save them; Ctrl-C ends them early."""
        screen = self._console
        render = partial(self._reply_table, turn.answers, screen.height - 1)
        with suppress(KeyboardInterrupt), Live(console=screen, get_renderable=render, refresh_per_second=10, transient=True):
            for _ in self._chat.stream_turn(turn):
                pass
        rows = self._chat.end_turn(turn)
        if screen.is_terminal:
            screen.print(self._reply_table(turn.answers))
        else:
            for answer in turn.answers:
                screen.print(Text(f"{self._reply_label(answer)}: {printable_reply(answer)}"))
        if cut := [answer.method for answer in turn.answers if answer.shortened]:
            self._print_note(f"{', '.join(cut)}: the oldest turns no longer fit and were left out.")
        self._transcript.append_rows(rows)

    def _reply_table(self, answers: Sequence[ChatReply], height: int | None = None) -> Table:
        return layout_replies({self._reply_label(answer): printable_reply(answer) for answer in answers}, self._console, height)

    def _reply_label(self, answer: ChatReply) -> str:
        return f"{answer.method} ({self._chat.persona.name})" if answer.method == "persona" else answer.method

    def _print_note(self, text: str) -> None:
        self._console.print(Text(safe_text(text), style="dim"))


def printable_reply(answer: ChatReply) -> str:
    """Return the text of an answer without control characters, with a mark if it was cut off."""
    return replace_controls(answer.text) + CUT_OFF_MARKS.get(answer.finish_reason, "")


def layout_replies(replies: dict[str, str], console: Console, height: int | None = None) -> Table:
    """Return replies side by side, or one below the other if the console is too narrow.

    Args:
        replies: text by label.
        height: lines of the screen; of longer replies only the end is shown. None: no limit.
    """
    fits = MIN_REPLY_WIDTH * len(replies) <= console.width
    width = console.width // len(replies) - 2 if fits else console.width
    room = max(1, (height if fits else height // len(replies)) - 1) if height else 0
    labels = [Text(label, style="bold") for label in replies]
    texts = [Text("\n").join(Text(reply).wrap(console, width)[-room:]) for reply in replies.values()]
    grid = Table.grid(padding=(0, 2), expand=True)
    if fits:
        for _ in replies:
            grid.add_column(ratio=1)
        grid.add_row(*labels)
        grid.add_row(*texts)
    else:
        for cell in chain.from_iterable(zip(labels, texts, strict=True)):
            grid.add_row(cell)
    return grid


def read_lines() -> Iterator[str]:
    """Yield the lines that the user types until Ctrl-D, or those of piped input."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            print_text(f"you: {line.rstrip()}")
            yield line
        return
    import readline  # noqa: F401, adds line editing and a history to `input`

    while True:
        try:
            line = input("you: ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        yield line


def run_terminal_chat(name: str | None, methods: Sequence[str], save: Path | None) -> None:
    """Run a chat in this terminal.

    Args:
        name: a published persona, or None for the selected one.
        methods: some of `CHAT_METHODS`.
        save: file of the transcript; by default a new one in `TRANSCRIPT_DIR`.

    Raises:
        UserError: a method or the persona is unknown.
    """
    if unknown := [method for method in methods if method not in CHAT_METHODS]:
        raise UserError(f"--methods: {unknown[0]!r} is not one of {', '.join(CHAT_METHODS)}; correct it.")
    persona = find_persona(name or read_value("persona"))
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    with console.status("Loading the student"):
        chat = ChatSession(persona, list(dict.fromkeys(methods)))
    transcript = TranscriptFile(save or TRANSCRIPT_DIR / f"{datetime.now():%Y%m%d-%H%M%S}.jsonl")
    TerminalChat(chat, transcript, console).handle_lines(read_lines())
