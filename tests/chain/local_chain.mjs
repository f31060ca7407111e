// A real Bittensor runtime in one process, for tests: node local_chain.mjs RAW_SPEC PORT GENESIS_MS
//
// Chopsticks (a library for Substrate chains; its node_modules are in CHOPSTICKS_NM) executes the runtime of a raw
// chain spec. A block is made for each transaction, when `dev_newBlock` asks for one, and every so many milliseconds
// once `test_makeBlocks` has named them. Ends when its stdin does.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [specPath, port, genesisMs] = process.argv.slice(2)
const load = createRequire(`${process.env.CHOPSTICKS_NM}/@acala-network/chopsticks/package.json`)
console.warn = () => {} // several copies of one library; harmless
const core = load('@acala-network/chopsticks-core')

// Two things a node accepts and Chopsticks does not: bytes without 0x, and the older name of a method.
const call = core.allHandlers.state_call
core.allHandlers.state_call = (context, [method, data, at], subscription) =>
  call(context, [method, typeof data === 'string' && !data.startsWith('0x') ? `0x${data}` : data, at], subscription)
core.allHandlers.account_nextIndex = core.allHandlers.system_accountNextIndex

// What tests change: whether this says it is a node of a network, and how long it waits between blocks (0: for ever).
let inNetwork = false
let pause = 0
let making = false
core.allHandlers.system_health = async () => ({ peers: 0, isSyncing: false, shouldHavePeers: inNetwork })
core.allHandlers.test_joinNetwork = async (_context, [value]) => (inNetwork = value)
core.allHandlers.test_makeBlocks = async (context, [milliseconds]) => {
  pause = milliseconds
  if (!making) makeBlocks(context.chain)
  return pause
}
async function makeBlocks(chain) {
  making = true
  while (pause > 0) {
    await chain.newBlock()
    await new Promise((done) => setTimeout(done, pause))
  }
  making = false
}
const { setupWithServer } = load('@acala-network/chopsticks') // loaded now: it copies the handlers

const spec = JSON.parse(readFileSync(specPath, 'utf8'))
const storage = spec.genesis.raw.top
const CODE = '0x3a636f6465' // ":code"
const NOW = '0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb' // Timestamp.Now

// Chopsticks asks the runtime how long a slot is without allowing host functions it lacks, and would guess 12 s.
const asked = await core.runTask(
  {
    wasm: storage[CODE],
    calls: [['AuraApi_slot_duration', []]],
    mockSignatureHost: false,
    allowUnresolvedImports: true,
    runtimeLogLevel: 0,
  },
  core.emptyTaskHandler,
)
const slot = Number(Buffer.from(asked.Call.result.slice(2), 'hex').readBigUInt64LE(0))
core.getAuraSlotDuration.cache.set(storage[CODE], Promise.resolve(slot))

// Without a time in genesis the first block reads the clock twice, and fails if a slot begins in between.
const time = Buffer.alloc(8)
time.writeBigUInt64LE(BigInt(Math.floor(Number(genesisMs) / slot) * slot))
storage[NOW] = `0x${time.toString('hex')}`
spec.genesis.raw.top = Object.fromEntries(Object.keys(storage).sort().map((key) => [key, storage[key]]))

const { chain, close } = await setupWithServer({
  genesis: spec,
  host: '127.0.0.1',
  port: Number(port),
  'build-block-mode': 'Instant',
  'allow-unresolved-imports': true,
  'mock-signature-host': false,
  'process-queued-messages': false,
  'runtime-log-level': 0,
})
if (chain.head.number === 0) await chain.newBlock()
console.log('ready')

process.stdin.resume()
process.stdin.on('end', async () => {
  await close()
  process.exit(0)
})
