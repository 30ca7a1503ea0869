"""Commands that show what the methods answer: `chat`, `serve` and `samples`."""

from pathlib import Path

import click

from character.core.safe_text import print_text


@click.command("chat")
@click.option("--persona", help="A published persona; by default the selected one.")
@click.option("--methods", default="base,prompted,persona", show_default=True, help="Methods that answer.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Transcript file; by default in .cache/chats.")
def chat_command(persona: str | None, methods: str, save: Path | None) -> None:
    """Chat with several methods at once.

    Their replies appear side by side. Each method keeps its own history. The transcript is saved as JSON Lines.
    """
    from character.chat import terminal

    terminal.run_terminal_chat(persona, methods.split(","), save)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve_command(host: str, port: int, options: tuple[str, ...]) -> None:
    """Serve the student and all personas with vLLM.

    The server speaks OpenAI's protocol. The student is the model `base`; each persona, selected or published, is a model of
    its own name. OPTIONS after `--` are passed to vLLM.
    """
    from character.chat import vllm_server

    vllm_server.run_vllm_server(host, port, options)


@click.command("samples")
@click.argument("methods", nargs=-1)
@click.option("--count", default=10, show_default=True, help="Number of held-out prompts, from the first.")
def samples_command(methods: tuple[str, ...], count: int) -> None:
    """Print answers side by side, as Markdown.

    Shows the answers of METHODS (by default base and persona) to the first plain held-out prompts.
    """
    from character.report.markdown import answers_to_markdown

    print_text(answers_to_markdown(methods or ("base", "persona"), count))
