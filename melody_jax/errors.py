"""The one exception that commands turn into a single line and a non-zero exit."""


class UserError(Exception):
  """Bad input: the message says what was wrong, where, and what to do.

  `melody_jax.cli.run` prints it as one line on standard error and exits with
  status 2; library callers catch it like any exception.
  """
