"""Whole runs that are amended, by the owner, by validators together and by the command: everybody agrees afterwards."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from folder_runs import write_run
from forked import Commands
from run_builders import MakeStage, Stage, play

from muster.audit import Auditor
from muster.lab.simulator import SimulatedRun
from muster.node.context import Context, in_place
from muster.node.ledger.bootstrap import bootstrap
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.identity import Identity
from muster.protocol.spec import RunSpec
from muster.protocol.storage.locations import MemoryBuckets
from muster.run.folder import RunDirectory
from muster.run.join import JoinRequest, join_run
from muster.run.publish import publish_run

ROUNDS = 6


def amendment(made: Stage, spec: RunSpec, round_: int, path: str, value: object, *signers: str) -> bytes:
    """Signed by these members, or by the owner."""
    named = [made.member(name).identity for name in signers] or [made.roster.owner.identity]
    data = wire.encode_amendment(named[0], spec.run_id(), 1, round_, path, json.dumps(value))
    for one in named[1:]:
        data = wire.cosign_amendment(one, spec.run_id(), data)
    return data


def amended(made: Stage, spec: RunSpec, data: bytes, rounds: int = ROUNDS) -> SimulatedRun:
    """A run whose aggregators have all found the amendment before it begins."""
    buckets = MemoryBuckets()
    for operator in made.roster.operators:
        asyncio.run(buckets.bucket(f"mem:{operator.name}").put(paths.amendment(spec.run_id(), 1), data))
    return play(made, rounds, spec=spec, buckets=buckets)


def specs(run: SimulatedRun) -> set[tuple[str, ...]]:
    """What each participant takes the specs of all rounds to be; one element where all agree."""
    histories = [participant.tip.history for participant in run.participants.values()]
    return {tuple(history.at(round_).run_id().hex() for round_ in range(ROUNDS)) for history in histories}


def validators_used(run: SimulatedRun, made: Stage) -> set[str]:
    """Whose scores some record used."""
    found: set[str] = set()
    tensors = len(next(iter(run.participants.values())).tip.layout.shapes)
    for operator in made.roster.operators:
        store = run.buckets.bucket(f"mem:{operator.name}")
        for info in asyncio.run(store.list(f"{run.spec.run_id().hex()}/records/")):
            if info.key.endswith(".rec"):
                data = asyncio.run(store.get(info.key, max_bytes=wire.MAX_BODY_BYTES))
                record, _ = wire.decode_record(data, run.spec.run_id(), tensors)
                found |= {one.name for one in made.roster.operators for used in record.scores
                          if used.validator == one.identity.public}  # fmt: skip
    return found


def test_the_leaders_list_grows_mid_run_and_everybody_agrees(stage: MakeStage) -> None:
    """One of two operators is on the list when the run begins; from round 2 on both are, and both are heard."""
    made = stage(validators=2)
    first, second = (operator.hotkey for operator in made.roster.operators)
    spec = made.spec.model_copy(update={"genesis": made.spec.genesis.model_copy(update={"leaders": (first,)})})
    alone = play(made, ROUNDS, spec=spec)
    assert validators_used(alone, made) == {"operator-0"}
    run = amended(made, spec, amendment(made, spec, 2, "genesis.leaders", [first, second]))
    assert len(run.state_roots) == ROUNDS
    assert len(specs(run)) == 1
    history = run.participants["miner-0"].tip.history
    assert [history.at(round_).genesis.leaders for round_ in (0, 1, 2, ROUNDS)] == [
        (first,),
        (first,),
        (first, second),
        (first, second),
    ]
    assert validators_used(run, made) == {"operator-0", "operator-1"}
    assert run.state_roots[:2] == alone.state_roots[:2]


@pytest.mark.parametrize(("signers", "adopted"), [(("operator-1", "operator-2"), True), (("operator-2",), False)])
def test_validators_amend_together_as_soon_as_a_record_knows_their_stake(
    stage: MakeStage, signers: tuple[str, ...], adopted: bool
) -> None:
    made = stage(miners=2, validators=3)
    run = amended(made, made.spec, amendment(made, made.spec, 5, "inner.lr", 0.001, *signers))
    assert len(run.state_roots) == ROUNDS
    assert len(specs(run)) == 1
    history = run.participants["miner-0"].tip.history
    assert [history.at(round_).inner.lr == 0.001 for round_ in (0, 4, 5, 6)] == [False, False, adopted, adopted]
    assert all(0 < each.recorded_in < 5 for each in history.adopted), "the first record uses no scores"
    report = asyncio.run(Auditor(made.run, run.chain, run.buckets, lambda _line: None).audit(None))
    assert not report.faults


Ended = subprocess.CompletedProcess[str]
Muster = Callable[..., Ended]


@pytest.fixture(scope="module")
def muster(muster_command: Commands) -> Muster:
    """The command, in a process of its own."""
    return lambda *arguments: muster_command(*map(str, arguments))


def told(ended: Ended) -> dict[str, Any]:
    """What `--json` printed, or `spec show`."""
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


class Open(NamedTuple):
    """A run whose round 3 is open, in its folder."""

    stage: Stage
    run: SimulatedRun

    @property
    def path(self) -> Path:
        return self.stage.run.path

    def key(self, name: str) -> Path:
        return self.path / "keys" / f"{name}.key"

    def waiting(self, number: int = 1) -> Path:
        """Where leaders look for an amendment."""
        return self.path / paths.amendment(self.stage.spec.run_id(), number)


OPEN = 3


@pytest.fixture(scope="module")
def played(stage: MakeStage) -> Open:
    """Three validators, whose stakes the last record says."""
    made = stage(miners=2, validators=3)
    run = play(made, OPEN)
    write_run(made, run, below=OPEN)
    return Open(made, run)


@pytest.fixture
def opened(played: Open) -> Open:
    """The same, with nothing put there by another test."""
    for path in played.waiting().parent.glob("*"):
        path.unlink()
    return played


def test_an_owners_amendment_is_put_where_leaders_look(opened: Open, muster: Muster) -> None:
    first = told(muster("spec", "amend", opened.path, "inner.lr=1e-3", "--json"))
    delay = opened.stage.spec.clock.amend_delay
    assert (first["number"], first["path"], first["value"], first["enough"]) == (1, "inner.lr", 0.001, True)
    assert first["round"] == OPEN + delay + 3
    read = wire.decode_amendment(opened.waiting().read_bytes(), opened.stage.spec.run_id())
    assert (read.path, read.value, read.signers) == ("inner.lr", "0.001", {opened.stage.roster.owner.identity.public})
    second = muster("spec", "amend", opened.path, "sparse.k=32", "--round", OPEN + delay)
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith(
        f"amendment 2: sparse.k becomes 32 from round {OPEN + delay} on\nsigned by the owner"
    )
    assert opened.waiting(2).exists()
    shown = told(muster("spec", "show", opened.path))
    assert (shown["round"], shown["amendments"]) == (OPEN, []), "nothing is recorded yet"


@pytest.mark.parametrize(
    ("arguments", "code", "status", "words"),
    [
        (["inner.lr"], "usage", 2, "PATH=VALUE"),
        (["inner.lr=fast"], "usage", 2, "no JSON value"),
        (["inner.lr=NaN"], "usage", 2, "no JSON value"),
        (["data.manifest=\"é\""], "usage", 2, "ASCII"),
        ([], "usage", 2, "one of PATH=VALUE, --sign FILE and --submit FILE"),
        (["--submit", "f", "--round", "9"], "usage", 2, "--round goes with PATH=VALUE"),
        (["inner.lr=-1"], "ledger", 6, "inner.lr"),
        (["model.hidden=64"], "ledger", 6, "model.hidden cannot be amended"),
        (["genesis.chain=1"], "ledger", 6, "needs a newer release"),
        (["genesis.leaders=[]"], "ledger", 6, "genesis.leaders"),
        (["sparse.k=32", "--round", str(OPEN + 1)], "ledger", 6, f"at the soonest in round {OPEN + 2}"),
        (["sparse.k=32", "--key-file", "nowhere"], "identity", 9, "nowhere"),
        (["sparse.k=32", "--key-file", "{miner-0}"], "identity", 9, "neither the run's owner"),
        (["sparse.k=32", "--key-file", "{operator-0}"], "usage", 2, "--round"),
        (["sparse.k=32", "--key-file", "{operator-0}", "--round", "20"], "ledger", 6, "--out FILE"),
        (["sparse.k=32", "--location", "dir:miner-0"], "usage", 2, "no leader looks in the bucket"),
        (["--submit", "nowhere"], "storage", 4, "nowhere"),
        (["--submit", "{operator-0}"], "ledger", 6, "no amendment of run"),
        (["sparse.k=32", "--out", "no/such/folder"], "storage", 4, "no/such/folder"),
    ],
)  # fmt: skip
def test_what_no_leader_would_record_is_refused_and_put_nowhere(
    opened: Open, muster: Muster, arguments: list[str], code: str, status: int, words: str
) -> None:
    named = [re.sub(r"\{(.*)\}", lambda found: str(opened.key(found[1])), each) for each in arguments]
    ended = muster("spec", "amend", opened.path, *named)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith(f"error[{code}]: ")
    assert words in ended.stderr
    assert not opened.waiting().exists()


def test_a_file_goes_round_until_more_than_half_have_signed(opened: Open, muster: Muster, tmp_path: Path) -> None:
    file, owner = tmp_path / "wish", opened.stage.roster.owner.hotkey
    first, second = opened.key("operator-1"), opened.key("operator-2")
    made = muster("spec", "amend", opened.path, "sparse.k=32", "--round", 30, "--key-file", first, "--out", file)
    assert (made.returncode, opened.waiting().exists()) == (0, False), made.stderr
    assert (
        "signed by 1 of 3 validators, with 33.3% of the newest stakes: it takes more than half of both" in made.stdout
    )
    refused = muster("spec", "amend", opened.path, "--submit", file)
    assert refused.returncode == 6
    assert "signed by 1 of 3" in refused.stderr
    again = muster("spec", "amend", opened.path, "--sign", file, "--key-file", first)
    assert (again.returncode, "has signed" in again.stderr) == (2, True)
    signed = muster("spec", "amend", opened.path, "--sign", file, "--key-file", second)
    assert "signed by 2 of 3 validators, with 66.7% of the newest stakes: enough" in signed.stdout
    put = told(muster("spec", "amend", opened.path, "--submit", file, "--location", "dir:operator-1", "--json"))
    bucket = opened.path / "buckets" / "operator-1" / paths.amendment(opened.stage.spec.run_id(), 1)
    assert bucket.read_bytes() == file.read_bytes()
    assert (put["enough"], len(put["signers"]), owner in put["signers"]) == (True, 2, False)
    third = told(muster("spec", "amend", opened.path, "inner.lr=0.001", "--json"))
    bucket.unlink()
    assert third["number"] == 2, "what waits in a validator's bucket is recorded first"


def test_whoever_joins_an_amended_run_that_is_published_again_stands_where_the_others_stand(
    stage: MakeStage, muster: Muster, tmp_path: Path
) -> None:
    """What is published is the spec the run began with: the ledger tells the rest, so nothing of it grows old."""
    made = stage()
    run = amended(made, made.spec, amendment(made, made.spec, 2, "inner.lr", 0.001))
    write_run(made, run)
    spec = (made.run.path / "spec.json").read_bytes()
    place = asyncio.run(publish_run(made.run.path, str(made.run.path), None, {}))
    assert (made.run.path / "spec.json").read_bytes() == spec
    joined = asyncio.run(join_run(JoinRequest(place, tmp_path / "joined", "newcomer"), {}))
    assert made.run.file.run_id in joined
    shown = told(muster("spec", "show", place))
    (one,) = shown["amendments"]
    assert (one["path"], one["value"], one["round"], one["recorded_in"]) == ("inner.lr", 0.001, 2, 0)
    assert one["signers"] == [made.roster.owner.hotkey]
    assert (shown["spec"]["inner"]["lr"], shown["run_id"]) == (0.001, made.run.file.run_id)
    began = told(muster("spec", "show", place, "--genesis"))
    assert (began["spec"]["inner"]["lr"], began["round"], began["amendments"]) == (made.spec.inner.lr, None, None)
    assert asyncio.run(_join(RunDirectory.open(place), tmp_path)) == (0.001, run.state_roots[-1])


async def _join(run: RunDirectory, folder: Path) -> tuple[float, str]:
    """A newcomer's learning rate and state root."""
    chain, buckets = run.chain(), run.buckets("dir:newcomer")
    context = Context(Identity(bytes(32)), chain, buckets, "dir:newcomer", Journal(folder / "j"), in_place)
    tip, replica = await bootstrap(run.history, context)
    await chain.close()
    await buckets.close()
    return tip.spec.inner.lr, replica.root().hex()
