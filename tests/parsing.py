"""Whether a command that a page shows is one that our command line takes; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vigorl_lib.cli.main import cli


def parse(arguments: Sequence[str]) -> None:
    """Parse what stands behind `vigorl`. Raises click.UsageError for what is no command, option or value of one."""
    command: click.Command = cli
    context = click.Context(cli, info_name="vigorl")
    rest = list(arguments)
    while isinstance(command, click.Group):
        context = command.make_context(command.name, rest, parent=context)
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, name
        command = found
    command.make_context(command.name, rest, parent=context)
