"""Commands of the shape domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "prepare": Verb(f"{__name__}.prepare", "Turn meshes into shards of samples."),
    "check": Verb(f"{__name__}.check", "Say what is wrong with meshes, and certify them."),
}
