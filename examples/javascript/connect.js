// A client of one agent, from the .proto files, which are read at run time: no code is generated.

import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'

// The contract, and the standard details of errors. int64 does not fit into a JavaScript number: it is a string, and BigInt counts with it.
const definitions = protoLoader.loadSync(
  ['mrelease/v1/release_service.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'],
  {
    includeDirs: ['../../proto', '../proto'].map((folder) => fileURLToPath(new URL(folder, import.meta.url))),
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  },
)
const { mrelease } = grpc.loadPackageDefinition(definitions)

// gRPC's own pauses between two tries to connect grow to two minutes: too long for an agent that was restarted.
const options = { 'grpc.max_reconnect_backoff_ms': 2000 }

/**
 * A client, which connects with its first call. On a Unix socket the kernel tells the agent who calls; everywhere else both sides show a
 * certificate, and the agent's must name the host of the address.
 * @param {string} agent unix:///path, or host:port
 * @param {{ca: string, cert: string, key: string}} files PEM files
 */
export function connect(agent, files) {
  const credentials = agent.startsWith('unix:')
    ? grpc.credentials.createInsecure()
    : grpc.credentials.createSsl(...[files.ca, files.key, files.cert].map((file) => readFileSync(file)))
  return new mrelease.v1.ReleaseService(agent, credentials, options)
}

/** The bytes of a message of google.rpc, read. */
export function decode(name, bytes) {
  return definitions[`google.rpc.${name}`].deserialize(bytes)
}
