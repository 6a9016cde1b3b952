"""Commands of the physics domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "solve": Verb(f"{__name__}.solve", "Solve flows with a reference solver, into shards."),
    "prepare": Verb(f"{__name__}.prepare", "Turn flows of other solvers into shards."),
}
