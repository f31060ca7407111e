"""What all participants must agree on, pure: bytes, rules and judgements, without I/O, clock or randomness.

A second implementation, or a tool beside this one, may rely on what is listed here: it keeps its name, its arguments
and its meaning for as long as the protocol has its version, and each function's docstring says what it raises (errors
of `errors` alone). Everything else that can be imported may change in any release. docs/protocol.md says the same in
bytes, for who uses none of this.

    types: Anchor, Beacon, Block, Role
        values that everything speaks of
    identity: Identity, hotkey_of, public_of, verify
        sr25519 keys, their ss58 addresses, signatures
    errors: ChainError, ConfigError, IdentityError, LedgerError, MusterError, StorageError, WireError
        one tree: a code, an exit status and a sentence each
    reasons: REASONS, Reason, ReasonClass
        why a submission is rejected
    spec: RunSpec, Template, load_template, preset_names
        the agreement of a run; its canonical bytes are what the run id is the digest of
    spec.families: FAMILIES, Family
        the models there are
    spec.history: SpecHistory
        the spec that is valid in a round, amendments applied
    spec.layout: Layout, layout_of, parameter_shapes
        tensors in consensus order
    wire: Amendment, Header, Hello, Record, Seal, Signed
        what is signed, as values
    wire: decode_amendment, decode_head, decode_hello, decode_record, decode_seal
        from bytes to those values, or `WireError` with a reason
    rules.admission: RoundFacts, admit
        whether a head may be sealed
    rules.assignment: assigned, data_digest, unassigned
        which windows of the text a slot trains on
    rules.attendance: Attendance, expected
        whom a round waits for
    rules.sampling: sample
        draws that everybody repeats
    rules.selection: choose, order, seat
        who gets a seat
    rules.weighing: Limits, as_applied, limits_of, weigh
        what each submission's tensors weigh, and what one without a seat would
    incentive.rating: Rating, rate
    incentive.score: judge
    incentive.sheet: recomputed, rows_of
    incentive.pay: chain_weights, incentives
        from measurements to what a validator sets on chain
    ledger: Tip, advance, genesis_tip, verify
        whether a record is valid, and where the ledger stands after it
    ledger.lineage: Lineage
        from the newest anchor back to what is known
    ledger.roots: state_root
        θ in 32 bytes
    ledger.round: RoundState, step
        what happens next in a round
    ledger.machine: RoundMachine
        the same for a shell: checked and told
    chain.base: Chain
    storage: Buckets, Store
        the two seams to the world
"""
