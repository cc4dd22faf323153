"""`vigorl`: the command line. Each command group is one module beside this one, imported when it is called.

Only this package prints. Errors that a user can mend are one line on stderr; exit codes are 0 done,
1 failed, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from vigorl_lib.errors import ConfigError, DataError, VigorlError

COMMANDS = {
    "up": ("vigorl_lib.cli.up", "Start the services on this machine and print their addresses."),
    "check": ("vigorl_lib.cli.check", "Try each part of an installation and its storage."),
    "context": ("vigorl_lib.cli.context", "The installations to talk to, by name: set, use, list, show."),
    "solve": ("vigorl_lib.cli.solve", "Ask one question about one image and watch the turns."),
    "data": ("vigorl_lib.cli.data", "Make, download, import, check and export data sets."),
    "search": ("vigorl_lib.cli.search", "Tree search over a data set with a policy."),
    "trees": ("vigorl_lib.cli.trees", "Searched trees: merge shards, import and export."),
    "linearize": ("vigorl_lib.cli.linearize", "Turn searched trees into chains to train on."),
    "train": ("vigorl_lib.cli.train", "Train: sft, grpo."),
    "jobs": ("vigorl_lib.cli.jobs", "Jobs on a cluster: render, submit, list, status, logs, cancel."),
    "eval": ("vigorl_lib.cli.evaluate:evaluate", "Measure a policy on a data set."),
    "benchmark": ("vigorl_lib.cli.benchmark", "The paper's benchmarks: list them, bring in their files."),
    "compare": ("vigorl_lib.cli.evaluate", "Two evaluations of the same questions, pair by pair."),
    "behaviours": ("vigorl_lib.cli.behaviours", "Count what trajectories do: regions, subgoals, checks, backtracking."),
    "annotation": ("vigorl_lib.cli.annotation", "Cited points marked by people: the page, and their agreement."),
    "models": ("vigorl_lib.cli.models", "Move checkpoints, by digest: fetch, upload, wait, digest."),
    "export": ("vigorl_lib.cli.export", "Write a checkpoint as a Hugging Face folder."),
    "report": ("vigorl_lib.cli.report", "Write report.html of a run, or the page of one search tree."),
    "quickstart": ("vigorl_lib.cli.quickstart", "The whole story on this machine, in one command."),
}
"""Command → module that defines it, under the same name unless another stands behind a colon; its line in the help."""


class LazyGroup(click.Group):
    """Knows the commands' names and help lines without importing them, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute or cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vigorl")
def cli() -> None:
    """Train and serve vision-language models that anchor each reasoning step to a point in the image."""


def main() -> None:
    # A pod is stopped by SIGTERM: what a command holds for its bucket is written on the way out, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except VigorlError as error:
        click.echo(f"error: {error.message}", err=True)
        wrong_input = isinstance(error, ConfigError | DataError) or error.metadata.get("status") == "2"
        sys.exit(2 if wrong_input else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe went away; give the interpreter's flush at exit nowhere to fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
