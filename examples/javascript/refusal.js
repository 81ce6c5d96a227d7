// What an error of an agent says: the status is gRPC's, the details in its trailer are google.rpc's.

import grpc from '@grpc/grpc-js'

import { decode } from './connect.js'

/** The messages of google.rpc in an error, by name: of each an agent sends one at most. None where gRPC itself made the error. */
function details(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? []
  if (!bytes) return {}
  const known = ['ErrorInfo', 'BadRequest', 'RetryInfo']
  const parts = decode('Status', bytes).details.map((any) => [any.type_url.split('google.rpc.')[1], any.value])
  return Object.fromEntries(parts.filter(([name]) => known.includes(name)).map(([name, value]) => [name, decode(name, value)]))
}

/** What is wrong and what to do about it. */
export function explain(error) {
  if (!(error.code in grpc.status)) return String(error)
  const { ErrorInfo, BadRequest } = details(error)
  return [
    `${grpc.status[error.code]}${ErrorInfo ? ` ${ErrorInfo.reason}` : ''}: ${error.details}`,
    ...Object.entries(ErrorInfo?.metadata ?? {}).sort().map(([key, value]) => `  ${key}: ${value}`),
    ...(BadRequest?.fieldViolations ?? []).map(({ field, description }) => `  ${field}: ${description}`),
  ].join('\n')
}

/** After how many milliseconds the same call may succeed, or undefined where trying again does not help. */
export function retryAfter(error, attempt) {
  const { RetryInfo } = details(error)
  if (RetryInfo) return milliseconds(RetryInfo.retryDelay)
  if (error.code !== grpc.status.UNAVAILABLE) return undefined
  // Without details it is gRPC's: no connection, or one that was lost. Half of the pause is left to chance, so that a thousand callers of an
  // agent that comes back do not come at once.
  const pause = Math.min(200 * 2 ** attempt, 5000)
  return pause / 2 + (Math.random() * pause) / 2
}

/** A google.protobuf.Duration as a number. */
export function milliseconds({ seconds, nanos }) {
  return Number(seconds) * 1e3 + nanos / 1e6
}
