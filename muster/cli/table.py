"""Every command of `muster`, in the order of its help: what it is called, where it is, and what it does."""

from __future__ import annotations

from collections.abc import Mapping

from muster.cli.lazy import Command, Group

COMMANDS: Mapping[str, Command | Group] = {
    "testnet": Command(
        "muster.cli.testnet:testnet", "Run a whole network on this machine: real processes, keys, store and chain."
    ),
    "join": Command(
        "muster.cli.join:join",
        "Prepare this machine to take part in a run: key, settings, and the command that starts it.",
    ),
    "doctor": Command(
        "muster.cli.doctor:doctor",
        "Examine this machine and a participant's settings before it starts; ends with the first failure's status.",
    ),
    "estimate": Command(
        "muster.cli.estimate:estimate",
        "Estimate what mining a run takes and costs: hours, traffic, memory, break-even; each figure with its source.",
    ),
    "miner": Command("muster.cli.daemons:miner", "Train on this machine and submit to a run, until it closes."),
    "validator": Command(
        "muster.cli.daemons:validator", "Measure submissions, publish scores and set weights, until the run closes."
    ),
    "aggregator": Command(
        "muster.cli.daemons:aggregator",
        "Seal rounds, decide them and sign their records when it is this operator's turn.",
    ),
    "status": Command(
        "muster.cli.status:status",
        "Tell where a run stands: its phase, what it waits for, until which block, who can move it; changes nothing.",
    ),
    "story": Command(
        "muster.cli.story:story",
        "Tell what happened in a round, in order: what failed, who was missed, what it waits for; changes nothing.",
    ),
    "explain": Command(
        "muster.cli.explain:explain",
        "Explain a peer's pay: what it sent, what was measured, each factor with its arithmetic, what would change it.",
    ),
    "audit": Command(
        "muster.cli.audit:audit",
        "Replay a run with no trust in anybody; names every object that is not what it must be, and changes none.",
    ),
    "spec": Group(
        "Make, show and amend run specs: what all participants of a run must agree on.",
        {
            "show": Command(
                "muster.cli.spec:show",
                "Print a preset, template or run spec with what follows from it, or the memory that it takes.",
            ),
            "new": Command(
                "muster.cli.spec:new",
                "Fill genesis, chain and data into a template: from then on it is one particular run.",
            ),
            "amend": Command(
                "muster.cli.spec:amend",
                "Change a field of a running run from some round on: by its owner, or by more than half of its "
                "validators.",
            ),
        },
    ),
    "run": Group(
        "Publish runs for others to join.",
        {
            "publish": Command(
                "muster.cli.run:publish",
                "Put a run's spec and text where others can read them, and print the URL they join by.",
            ),
        },
    ),
    "bucket": Group(
        "Make and check the bucket you write. Keys come from MUSTER_S3_ACCESS_KEY and MUSTER_S3_SECRET_KEY.",
        {
            "create": Command(
                "muster.cli.bucket:create",
                "Make a bucket and what reads it; the last line is the location to commit.",
            ),
            "check": Command(
                "muster.cli.bucket:check",
                "Try what everybody can do in a bucket and, with its own keys in the environment, what you can.",
            ),
            "rotate": Command(
                "muster.cli.bucket:rotate",
                "Replace the key that a location carries; the last line is the new location to commit.",
            ),
            "remove": Command(
                "muster.cli.bucket:remove",
                "Remove a bucket with all that is in it, and the users made for it. Nobody can undo this.",
            ),
        },
    ),
    "deploy": Group(
        "Check files that start a participant somewhere: SkyPilot, compose, systemd, cloud-init.",
        {
            "check": Command(
                "muster.cli.deploy:check",
                "Name what deployment tools take in silence: values that are not quoted, empty ones, unknown GPUs, "
                "secrets.",
            ),
        },
    ),
}
