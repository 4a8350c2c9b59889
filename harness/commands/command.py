"""What all commands refuse: options that are given twice, and numbers that nothing could count."""

from collections import Counter
from typing import Any

from typer.core import TyperCommand, TyperOption

from estimators.base.errors import OptionError

_MOST = 10**9  # of whole numbers; a store can keep no more than 64 bits of one


class Command(TyperCommand):
    """A command that refuses what typer would pass over."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, and refuse those of which only the last would count."""
        given = Counter(self.make_parser(ctx).parse_args([*args])[2])
        left = super().parse_args(ctx, args)
        for param in self.get_params(ctx):
            if not isinstance(param, TyperOption) or param.is_flag:
                continue
            if given[param] > 1 and not param.multiple:
                raise OptionError(
                    f"{param.opts[0]} is given {given[param]} times; it takes one value"
                )
            values = ctx.params.get(param.name)
            for value in values if param.multiple and values else [values]:
                if isinstance(value, int) and value > _MOST:
                    raise OptionError(f"{param.opts[0]} {value} must be {_MOST:,} or less")
        return left
