// Killing once, however often one has to ask; and following what somebody else has begun.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

import { explain, retryAfter } from './refusal.js'

/**
 * Has one process killed and its memory released.
 *
 * The first call signals nobody: it makes every check, and its answer says who exactly has that pid, on which node, in which boot. The second
 * names all of that, so that it can be repeated: a pid that was given to another process, or another node at the address, is refused.
 * @param {string} process PID, or PID:INODE as `mrelease ps` shows it
 * @param {Date} deadline of everything together
 */
export async function kill(client, process, deadline, { requestId = randomUUID(), reason = '' } = {}) {
  if (!/^-?\d+(:\d+)?$/.test(process)) throw new Error(`'${process}' is not PID or PID:INODE`)
  const [pid, pidfdInode = 0] = process.split(':')
  const request = { target: { process: { pid, pidfdInode } }, reason }
  const checked = await retried(client, { ...request, validateOnly: true }, deadline)
  console.error(`request_id ${requestId}`)
  // The agent answers HELD when this has passed. It is set once: the same request_id with another payload is refused.
  const patience = (deadline - Date.now()) * 0.8
  return retried(
    client,
    {
      ...request,
      target: { process: checked.processes[0].process },
      node: { bootId: checked.node.bootId },
      timeout: { seconds: Math.floor(patience / 1e3), nanos: Math.floor(patience % 1e3) * 1e6 },
      requestId,
    },
    deadline,
  )
}

/**
 * Makes the same request again while the agent is not there or has no capacity, until the deadline. With a request_id that is safe also where
 * the request had arrived and only its answer was lost: the agent joins the operation, or repeats its result.
 */
async function retried(client, request, deadline) {
  const call = promisify(client.killAndRelease.bind(client))
  for (let attempt = 0; ; attempt++) {
    try {
      return (await call(request, { deadline })).result
    } catch (error) {
      const pause = retryAfter(error, attempt)
      if (pause === undefined || Date.now() + pause > deadline.getTime()) throw error
      console.error(`${explain(error)}\nagain in ${Math.round(pause)} ms`)
      await sleep(pause)
    }
  }
}

/** Follows an operation to its end. Leaving it does not stop the operation: once SIGKILL is out, nothing does. */
export async function watch(client, requestId, deadline) {
  for await (const { event, progress, result } of client.watchRelease({ requestId }, { deadline })) {
    if (event === 'result') return result
    console.error(`${progress.heldBytes} of ${progress.beforeBytes} bytes held`)
  }
  throw new Error('the stream ended without a result')
}
