"""Commands of the shape domain. Each is imported when it runs."""

VERBS: dict = {}
