"""A function that somebody interrupts."""


def interrupted_at(call, function):
    """The function, whose call of this number, counted from 1, is interrupted."""
    calls = []

    def stopped(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **options)

    return stopped
