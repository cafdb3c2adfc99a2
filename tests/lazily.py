"""beartype at the first call of a function: at import it takes each process seconds, most of them for nothing."""

import functools

import beartype


def check(function):
    """`function`, whose arguments and result are checked against their annotations as it runs."""
    checked = None

    @functools.wraps(function)
    def call(*arguments, **options):
        nonlocal checked
        if checked is None:
            checked = beartype.beartype(function)
        return checked(*arguments, **options)

    return call
