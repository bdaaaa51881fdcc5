"""Whether the interpreter has begun to exit: from then on failed refreshes are not reported."""


class _Exit:
    """The private loop sets `begun` at exit."""

    begun = False


EXIT = _Exit()
