// Kills a process on a node and prints the proof that its memory is back. Its only knowledge of mrelease is proto/.
//
//   node main.js [options] kill PID[:INODE]   kill it; INODE as `mrelease ps` shows it
//   node main.js [options] watch REQUEST_ID   follow a kill that somebody else has begun
//
// It exits with 0 where all memory is back, 3 where it is not, 1 where the agent refused or did not answer.

import { parseArgs } from 'node:util'

import { connect } from './connect.js'
import { kill, watch } from './kill.js'
import { explain, milliseconds } from './refusal.js'

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      agent: { type: 'string', default: 'unix:///run/mrelease/agent.sock' }, // or host:port with mutual TLS
      ca: { type: 'string', default: 'ca.crt' }, // authority that has issued the agent's certificate
      cert: { type: 'string', default: 'client.crt' }, // certificate to show to the agent
      key: { type: 'string', default: 'client.key' },
      deadline: { type: 'string', default: '30' }, // seconds after which to give up, retries included
      'request-id': { type: 'string' }, // name of the operation; without one a new one
      reason: { type: 'string' }, // why, for the agent's audit log
    },
  })
  const [command, argument] = positionals
  if (positionals.length !== 2 || !['kill', 'watch'].includes(command)) {
    throw new Error('usage: node main.js [options] kill PID[:INODE] | watch REQUEST_ID')
  }
  const deadline = new Date(Date.now() + Number(values.deadline) * 1000)
  const client = connect(values.agent, values)
  try {
    const result =
      command === 'kill'
        ? await kill(client, argument, deadline, { requestId: values['request-id'], reason: values.reason })
        : await watch(client, argument, deadline)
    show(result)
    return ['VERDICT_RELEASED', 'VERDICT_EXITED'].includes(result.verdict) ? 0 : 3
  } finally {
    client.close()
  }
}

/** Says what became of each process, and of the whole: a process that keeps its memory is a result and no error. */
function show({ processes, verdict, releasedBytes, node, replayed }) {
  for (const { process, command, outcome, releasedBytes, releaseDuration, cause, remedy } of processes) {
    const took = releaseDuration ? ` after ${milliseconds(releaseDuration)} ms` : '' // absent while the memory is not proven back
    console.log(`${process.pid} ${JSON.stringify(command)}: ${outcome.replace('OUTCOME_', '')}, ${releasedBytes} bytes back${took}`)
    if (remedy) console.log(`  ${cause}; ${remedy}`)
  }
  const how = replayed ? ' (by an earlier attempt)' : ''
  console.log(`${verdict.replace('VERDICT_', '')} ${releasedBytes} bytes on ${node.name}${how}`)
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(explain(error))
  process.exitCode = 1
}
