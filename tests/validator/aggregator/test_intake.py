"""The intake: one state a peer, each peer alone, what may be damage looked at again, and nothing done in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from builders import header, identity, payload_key, possession_of, update
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from intake_world import BLOCK, Crowd, names, play, public, reasons

from muster.lab.faults import Fault, Kind, Script
from muster.node.submission import PLACE_SECONDS
from muster.protocol import wire
from muster.protocol.errors import DiskFailed, ObjectDamaged, WireError
from muster.validator.aggregator.intake import BEYOND_SEATS, Intake, Stage

A, B, C = names(3)


def stages(intake: Intake) -> dict[bytes, Stage]:
    return {peer: taken.stage for peer, taken in intake.peers.items()}


def opened(intake: Intake) -> set[bytes]:
    return {peer for peer, taken in intake.peers.items() if taken.stage is Stage.OPENED}


def hangs(peers: Iterable[str]) -> dict[str, Fault]:
    """Payloads that never come; which of the faults fired tells whose was begun."""
    return {name: Fault("hang", "store.get", "*.sub", owner=name) for name in peers}


class TestHeads:
    """What is in a bucket before the seal."""

    def test_each_is_read_judged_and_told_once(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            await crowd.submit(A)
            async with crowd.intake() as intake:
                assert await crowd.look(intake) == [public(A)]
                await crowd.submit(B)
                assert await crowd.look(intake) == [public(B)]
                assert await crowd.look(intake) == []
                assert stages(intake) == {public(A): Stage.SEEN, public(B): Stage.SEEN}
            assert crowd.script.asked(operation="store.get_range") == 3, "B's bucket was empty at first"
            assert crowd.judging.calls == 2

        play(main())

    @pytest.mark.parametrize("kind", ["damaged", "truncated"])
    def test_bytes_that_nobody_signed_are_read_again(self, kind: Kind) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A,), Script([Fault(kind, "store.get_range", count=2)]))
            await crowd.submit()
            async with crowd.intake() as intake:
                for _ in range(2):
                    assert await crowd.look(intake) == []
                    assert not intake.peers[public(A)].head.final
                assert await crowd.look(intake) == [public(A)]
            assert not crowd.script.unfired()

        play(main())

    def test_what_its_owner_signed_is_final(self) -> None:
        """A head that claims another's slot is the peer's own doing."""

        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            await crowd.submit(A, uid=1)
            async with crowd.intake() as intake:
                assert await crowd.look(intake) == [public(A)]
                await crowd.submit(A)
                assert await crowd.look(intake) == []
                assert intake.peers[public(A)].head.reason == "uid_mismatch"

        play(main())

    @pytest.mark.parametrize(
        ("put", "kept", "reason"),
        [
            (lambda head: head + b"more", lambda head: head + b"m", "trailing"),
            (lambda head: b"junk" * 10_000, lambda head: b"junk" * 3, "magic"),
            (lambda head: head[:8] + b"\xff\xff\0\0" + head[12:], lambda head: head[:8] + b"\xff\xff\0\0", "truncated"),
            (lambda head: b"", lambda head: b"", "truncated"),
        ],
        ids=["longer", "junk", "announces too much", "empty"],
    )
    def test_of_what_is_no_head_only_what_shows_it_is_kept(
        self, put: Callable[[bytes], bytes], kept: Callable[[bytes], bytes], reason: str
    ) -> None:
        """The record will hold it: nobody must make records larger by putting more there."""

        async def main() -> None:
            crowd = await Crowd.begin((A,))
            await crowd.submit()
            head = await crowd.bucket(A).get(crowd.head_key, max_bytes=2**20)
            await crowd.bucket(A).put(crowd.head_key, put(head))
            async with crowd.intake() as intake:
                await crowd.look(intake)
                found = intake.peers[public(A)].head
                assert (found.data, found.reason) == (kept(head), reason)
                with pytest.raises(WireError, match=reason):
                    intake.admitted(public(A), found.data)

        play(main())

    @pytest.mark.parametrize("fault", [Fault("hang", owner=A), Fault("slow", owner=A, seconds=29.0)])
    def test_a_look_ends_with_the_block(self, fault: Fault) -> None:
        """Who hangs or drips delays nobody longer than that, and is asked by one errand at a time."""

        async def main() -> None:
            crowd = await Crowd.begin((A, B, C), Script([fault]))
            await crowd.submit()
            async with crowd.intake() as intake:
                assert await crowd.look(intake) == sorted((public(B), public(C)))
                assert asyncio.get_running_loop().time() == BLOCK
                assert await crowd.look(intake) == []
                assert asyncio.get_running_loop().time() == BLOCK, "what is under way is not waited for again"
            assert crowd.script.asked(operation="store.get_range") == 3

        play(main())

    def test_one_that_arrives_between_two_looks_is_told_at_the_next(self) -> None:
        """Or the round would wait for it until its deadline although it is there."""

        async def main() -> None:
            crowd = await Crowd.begin((A,), Script([Fault("slow", "store.get_range", seconds=1.5 * BLOCK)]))
            await crowd.submit()
            async with crowd.intake() as intake:
                assert await crowd.look(intake) == []
                await crowd.next_block()
                assert public(A) in intake.peers
                assert await crowd.look(intake) == [public(A)]
                assert await crowd.look(intake) == []

        play(main())

    def test_a_bucket_that_fails_is_looked_at_again(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A,), Script([Fault("error", "store.get_range", count=1)]))
            await crowd.submit()
            async with crowd.intake() as intake:
                assert await crowd.look(intake) == []
                assert await crowd.look(intake) == [public(A)]

        play(main())


class TestSeal:
    """The seal ends taking in."""

    def test_only_what_is_listed_is_kept_and_what_is_wrong_with_a_head_is_final(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A, B, C))
            await crowd.submit(A, B)
            await crowd.bucket(C).put(crowd.head_key, b"not a submission")
            async with crowd.intake() as intake:
                await crowd.look(intake)
                seal = await crowd.seal(intake)
                assert stages(intake) == dict.fromkeys(crowd.order, Stage.SEEN) | {public(C): Stage.FAILED}
                assert reasons(intake) == {A: "key_missing", B: "key_missing", C: "magic"}
                assert intake.candidates() == sorted((public(A), public(B)))
                intake.close(replace(seal, headers=seal.headers[:1]), bytes(32))
                assert list(intake.peers) == [seal.headers[0][0]]

        play(main())

    @pytest.mark.parametrize("first", [b"", b"not a submission"], ids=["nothing", "rubbish"])
    def test_a_head_that_arrives_after_it_changes_nothing(self, first: bytes) -> None:
        """Neither who is sealed nor whose bytes: the record would list other heads than its seal, and be invalid."""

        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            await crowd.submit(B)
            async with crowd.intake() as intake:
                if first:
                    await crowd.bucket(A).put(crowd.head_key, first)
                await crowd.look(intake)
                await crowd.submit(A)
                crowd.script = Script([Fault("slow", "store.get_range", owner=A, seconds=1.5 * BLOCK)])
                await crowd.look(intake)
                seal = await crowd.seal(intake)
                before = {peer: taken.head for peer, taken in intake.peers.items()}
                await crowd.next_block()
                await crowd.next_block()
                assert {peer: taken.head for peer, taken in intake.peers.items()} == before
                assert {peer for peer, _ in seal.headers} == set(before)
                assert (public(A) in before) == bool(first)
                assert crowd.judging.calls == 2 + bool(first), "it did arrive"

        play(main())


class TestKeys:
    """seen -> keyed."""

    def test_a_key_is_waited_for(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            await crowd.submit()
            async with crowd.intake() as intake:
                await crowd.look(intake)
                await crowd.seal(intake)
                await crowd.show(B)
                assert await crowd.reveal(intake) == {public(B)}
                assert reasons(intake) == {A: "key_missing"}
                await crowd.show(A)
                assert await crowd.reveal(intake) == {public(A), public(B)}
                assert reasons(intake) == {}

        play(main())

    @pytest.mark.parametrize("kind", ["damaged", "truncated", "error", "missing"])
    def test_one_that_cannot_be_read_is_looked_at_again(self, kind: Kind) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A,))
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                crowd.script = Script([Fault(kind, "store.get", "*.key", count=2)])
                for _ in range(2):
                    assert await crowd.reveal(intake) == frozenset()
                    assert reasons(intake)[A] in ("key_missing", "unavailable", "key_signature", "key_truncated")
                assert await crowd.reveal(intake) == {public(A)}
                assert stages(intake) == {public(A): Stage.OPENED}

        play(main())

    @pytest.mark.parametrize("reason", ["key_round", "key_hotkey", "key_mismatch", "key_seal"])
    def test_one_that_its_signer_got_wrong_ends_it(self, reason: str) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                signer = identity(B if reason == "key_hotkey" else A)
                key = payload_key(2 if reason == "key_mismatch" else 1)
                seal = bytes(32) if reason == "key_seal" else crowd.sealed_by
                wrong = wire.encode_key(signer, crowd.tip.run_id, int(reason == "key_round"), key, seal)
                await crowd.bucket(A).put(crowd.key, wrong)
                assert await crowd.reveal(intake) == set(crowd.order)
                await crowd.show(A)
                await crowd.reveal(intake)
                assert reasons(intake) == {A: reason}

        play(main())

    def test_a_peer_without_a_bucket_has_no_key(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A,))
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                assert await intake.reveal({}, crowd.order, 20, await crowd.head()) == frozenset()
                assert reasons(intake) == {A: "unavailable"}
                assert await crowd.reveal(intake) == {public(A)}

        play(main())


class TestPayloads:
    """keyed -> opened, or failed."""

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("damaged", "ciphertext_digest"),
            ("truncated", "ciphertext_size"),
            ("missing", "unavailable"),
            ("error", "unavailable"),
        ],
    )
    def test_what_may_be_damage_is_looked_at_again_less_and_less_often(self, kind: Kind, reason: str) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A,))
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                crowd.script = Script([Fault(kind, "store.get", "*.sub", count=3)])
                first, asked = (await crowd.head()).number, []
                while not opened(intake):
                    before = crowd.script.asked(sort="submissions.sub")
                    assert await crowd.reveal(intake) == opened(intake)
                    assert reasons(intake) == ({} if opened(intake) else {A: reason})
                    if crowd.script.asked(sort="submissions.sub") > before:
                        asked.append((await crowd.head()).number - first)
                    await crowd.next_block()
                assert asked == [0, 1, 3, 7]

        play(main())

    @pytest.mark.parametrize("reason", ["payload_auth", "codec_version", "frame_truncated"])
    def test_what_is_surely_its_own_is_final(self, reason: str) -> None:
        """Bytes that the signed head commits to are what the peer sent, whatever they are."""

        async def main() -> None:
            crowd = await Crowd.begin((A,))
            run_id, key = crowd.tip.run_id, payload_key()
            whole = wire.encrypt_payload(update(), key, run_id, 0, public(B))
            if reason == "frame_truncated":
                whole = wire.encrypt_frames(b"", key, run_id, 0, public(A))
            if reason == "codec_version":
                nonce, bound = bytes(12), b"muster/payload/v2" + run_id + bytes(8) + public(A)
                whole = ChaCha20Poly1305(key).encrypt(nonce, b"\x02rest", bound)
            facts = crowd.tip.facts(possession_of(crowd.tip.opening))
            head = header(facts, identity(A), 0, whole, key)
            await crowd.bucket(A).put(crowd.head_key, wire.encode_head(head, identity(A)))
            await crowd.bucket(A).put(crowd.payload, whole)
            async with crowd.intake() as intake:
                await crowd.look(intake)
                await crowd.seal(intake)
                shown = wire.encode_key(identity(A), run_id, 0, key, crowd.sealed_by)
                await crowd.bucket(A).put(crowd.key, shown)
                assert await crowd.reveal(intake) == {public(A)}
                assert reasons(intake) == {A: reason}
                crowd.script = Script()
                await crowd.next_block()
                await crowd.reveal(intake)
                assert crowd.script.asked() == 0

        play(main())

    def test_each_is_opened_once_and_judged_once(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin(names(6))
            async with crowd.intake() as intake:
                seal = await crowd.sealed(intake)
                for _ in range(3):
                    await crowd.reveal(intake)
                    await crowd.next_block()
                assert opened(intake) == set(crowd.order)
                for peer, _ in seal.headers:
                    taken = intake.peers[peer]
                    assert intake.admitted(peer, taken.head.data) is taken.head.signed
                    assert intake.payload(peer).opened.signed is taken.head.signed
            assert (crowd.judging.calls, crowd.opening.calls) == (6, 6)
            assert crowd.script.asked() == 3 * 6, "a head, a key and a ciphertext each"
            assert crowd.script.asked(operation="store.get") == 12, "a key and a payload each"

        play(main())

    @pytest.mark.parametrize("pattern", ["*.key", "*.sub"])
    def test_a_slot_that_passes_on_while_it_is_under_way_ends_it(self, pattern: str) -> None:
        """Or its payload would be accepted beside that of the slot's new holder, in a record that nobody applies."""

        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                crowd.script = Script([Fault("slow", key=pattern, owner=A, seconds=1.5 * BLOCK)])
                assert await crowd.reveal(intake) == {public(B)}
                intake.recheck({public(B): 1})
                await crowd.next_block()
                await crowd.next_block()
                assert not intake.peers[public(A)].busy
                assert await crowd.reveal(intake) == {public(A), public(B)}
                assert reasons(intake) == {A: "unregistered"}
                assert intake.peers[public(A)].payload is None
                assert intake.candidates() == [public(B)]
            assert not crowd.script.unfired()

        play(main())


def test_a_leaders_own_disk_is_no_peers_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that it spoils is none, so no time for payloads goes by; the next one goes on by itself."""
    monkeypatch.setattr("muster.node.submission.SPOOL_BYTES", 1)

    async def main() -> None:
        crowd = await Crowd.begin((A, B))
        crowd.spool = tmp_path / "spool"
        async with crowd.intake() as intake:
            await crowd.sealed(intake)
            crowd.spool.touch()  # where the folder has to be
            for _ in range(3):
                for _again_in_the_block in range(2):
                    with pytest.raises(DiskFailed, match="a payload on its way cannot be kept on disk"):
                        await crowd.reveal(intake)
                await crowd.next_block()
            assert opened(intake) == frozenset()
            crowd.spool.unlink()
            assert await crowd.reveal(intake) == {public(A), public(B)}
            assert reasons(intake) == {}

    play(main())


class TestOrder:
    """Whose payload is fetched when."""

    SEATS = 3
    MANY = names(30)

    def test_as_many_as_there_are_seats_and_eight_are_under_way_and_who_hangs_makes_room(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin(self.MANY)
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                faults = hangs(self.MANY)
                crowd.script = Script(faults.values())

                def begun() -> list[str]:
                    return [name for name in self.MANY if crowd.script.fired[faults[name]]]

                look = asyncio.create_task(crowd.reveal(intake, self.SEATS))
                await asyncio.sleep(PLACE_SECONDS / 2)
                assert begun() == list(self.MANY[: self.SEATS + BEYOND_SEATS])
                await asyncio.sleep(PLACE_SECONDS)
                assert begun() == list(self.MANY[: 2 * (self.SEATS + BEYOND_SEATS)])
                assert await look == frozenset()
                assert begun() == list(self.MANY)
                assert set(reasons(intake).values()) == {"unavailable"}
                await crowd.reveal(intake, self.SEATS)
                assert set(crowd.script.fired.values()) == {1}, "who is under way is not begun again"

        play(main())

    def test_expected_peers_come_first_and_then_everybody_in_order(self) -> None:
        async def main() -> None:
            expected = (self.MANY[-1], self.MANY[20])
            crowd = await Crowd.begin(self.MANY, expected=expected)
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                faults = hangs(self.MANY)
                crowd.script = Script(faults.values())
                look = asyncio.create_task(crowd.reveal(intake, self.SEATS))
                await asyncio.sleep(PLACE_SECONDS / 2)
                begun = {name for name in self.MANY if crowd.script.fired[faults[name]]}
                assert begun == {*expected, *self.MANY[: self.SEATS + BEYOND_SEATS - 2]}
                await look

        play(main())

    def test_each_failure_starts_the_next_within_the_look(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin(self.MANY)
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                crowd.script = Script(Fault("missing", "store.get", "*.sub", owner=name) for name in self.MANY[:20])
                before = asyncio.get_running_loop().time()
                assert await crowd.reveal(intake, self.SEATS) >= set(crowd.order[20:])
                assert opened(intake) >= set(crowd.order[20:23])
                assert asyncio.get_running_loop().time() == before

        play(main())

    @pytest.mark.parametrize("ahead", [0, 2])
    def test_nothing_is_fetched_behind_the_last_seat(self, ahead: int) -> None:
        """Whoever is ahead of it and hangs may yet take a seat, but gives none away."""

        async def main() -> None:
            crowd = await Crowd.begin(self.MANY)
            first = ahead + self.SEATS
            await crowd.submit()
            async with crowd.intake() as intake:
                await crowd.look(intake)
                await crowd.seal(intake)
                await crowd.show(*self.MANY[:first])
                crowd.script = Script(hangs(self.MANY[:ahead]).values())
                await crowd.reveal(intake, self.SEATS)
                await crowd.show()
                assert await crowd.reveal(intake, self.SEATS) == set(crowd.order[ahead:])
                assert opened(intake) == set(crowd.order[ahead:first])
            assert crowd.script.asked(sort="submissions.sub") == first

        play(main())

    def test_in_one_look_no_more_are_opened_than_are_under_way(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin(self.MANY)
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                assert await crowd.reveal(intake, self.SEATS) == set(crowd.order)
                assert set(crowd.order[:3]) <= opened(intake) <= set(crowd.order[: self.SEATS + BEYOND_SEATS])

        play(main())

    def test_another_order_fetches_what_it_needs(self) -> None:
        """Scores come in late: the seats are others' now."""

        async def main() -> None:
            crowd = await Crowd.begin(self.MANY)
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                assert await crowd.reveal(intake, self.SEATS) == set(crowd.order)
                backward = crowd.order[::-1]
                settled = await intake.reveal(crowd.stores(), backward, self.SEATS, await crowd.head())
                assert settled == set(crowd.order)
                assert opened(intake) >= set(backward[:3])

        play(main())

    @settings(max_examples=40)
    @given(
        seats=st.integers(1, 3),
        fates=st.lists(
            st.sampled_from(["good", "no key", "damaged", "missing", "hang", "key hangs", "other key"]),
            min_size=1,
            max_size=12,
        ),
    )
    def test_the_first_good_ones_have_the_seats_and_each_reason_is_the_peers_own(
        self, seats: int, fates: list[str]
    ) -> None:
        why = {
            "no key": "key_missing", "damaged": "ciphertext_digest", "missing": "unavailable",
            "hang": "unavailable", "key hangs": "unavailable", "other key": "key_mismatch",
        }  # fmt: skip

        def fault(name: str, fate: str) -> list[Fault]:
            match fate:
                case "hang" | "damaged" | "missing":
                    kind: Kind = fate
                    return [Fault(kind, "store.get", "*.sub", owner=name)]
                case "key hangs":
                    return [Fault("hang", "store.get", "*.key", owner=name)]
            return []

        async def main() -> None:
            crowd = await Crowd.begin(names(len(fates)))
            fate = dict(zip(crowd.peers, fates, strict=True))
            async with crowd.intake() as intake:
                await crowd.sealed(intake)
                for name in crowd.peers:
                    if fate[name] == "no key":
                        await crowd.bucket(name).delete(crowd.key)
                    if fate[name] == "other key":
                        other = wire.encode_key(identity(name), crowd.tip.run_id, 0, payload_key(2), crowd.sealed_by)
                        await crowd.bucket(name).put(crowd.key, other)
                crowd.script = Script(f for name in crowd.peers for f in fault(name, fate[name]))
                for _ in range(3):
                    settled = await crowd.reveal(intake, seats)
                    await crowd.next_block()
                good = [name for name in crowd.peers if fate[name] == "good"][:seats]
                last = crowd.peers.index(good[-1]) if len(good) == seats else len(fates) - 1
                assert {public(name) for name in good} <= opened(intake)
                assert len(opened(intake)) <= seats + BEYOND_SEATS
                for name in crowd.peers[: last + 1]:
                    assert reasons(intake).get(name) == why.get(fate[name])
                    assert (public(name) in settled) == (fate[name] in ("good", "other key"))
                assert settled >= set(crowd.order[last + 1 :])

        play(main())


class TestSecondLife:
    """The heads that a seal lists outlive their leader."""

    def test_what_is_saved_is_what_is_loaded(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A, B, C))
            await crowd.submit(A, B)
            await crowd.submit(B, uid=0)
            await crowd.bucket(C).put(crowd.head_key, b"not a submission")
            async with crowd.intake() as intake, crowd.intake() as second:
                await crowd.look(intake)
                seal = await crowd.seal(intake)
                second.load(intake.heads(), seal)
                second.close(seal, crowd.sealed_by)
                assert second.peers == intake.peers
                assert reasons(second) == {A: "key_missing", B: "uid_mismatch", C: "magic"}

        play(main())

    def test_other_heads_than_the_seal_lists_are_damage(self) -> None:
        async def main() -> None:
            crowd = await Crowd.begin((A, B))
            async with crowd.intake() as intake, crowd.intake() as second:
                seal = await crowd.sealed(intake)
                heads = intake.heads()
                head = heads[public(A)]
                flipped = heads | {public(A): head[:-1] + bytes((head[-1] ^ 1,))}
                for wrong in (flipped, {public(A): head}, {}, heads | {public(C): head}):
                    with pytest.raises(ObjectDamaged, match="saved heads"):
                        second.load(wrong, seal)
                assert second.peers == {}

        play(main())

    def test_heads_are_judged_for_the_record_as_everybody_will(self) -> None:
        """By what they show alone: what its leader saw on the chain, nobody else can check."""

        async def main() -> None:
            crowd = await Crowd.begin((A, B, C))
            await crowd.submit(A, uid=1)
            await crowd.submit(B)
            await crowd.bucket(C).put(crowd.head_key, b"not a submission")
            async with crowd.intake() as intake:
                await crowd.look(intake)
                mine, other, rubbish = (intake.peers[public(name)].head.data for name in (A, B, C))
                assert intake.admitted(public(A), mine).header.uid == 1
                for peer, head, reason in ((A, other, "foreign_header"), (C, rubbish, "magic")):
                    with pytest.raises(WireError, match=reason):
                        intake.admitted(public(peer), head)

        play(main())
