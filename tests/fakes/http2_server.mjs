// A server on node's own HTTP/2 (nghttp2), as strict and as small as it gets: http2_server.mjs PEM (key and certificate)
import { readFileSync } from 'node:fs'
import { createSecureServer } from 'node:http2'

const pem = readFileSync(process.argv[2])
const settings = { headerTableSize: 0, maxConcurrentStreams: 10, initialWindowSize: 1000 }
const server = createSecureServer({ key: pem, cert: pem, settings })
let sessions = 0
server.on('session', () => sessions++)
server.on('stream', (stream) => {
  const pieces = []
  stream.on('error', () => {})
  stream.on('data', (piece) => pieces.push(piece))
  stream.on('end', () => {
    stream.respond({ ':status': 200, 'content-type': 'application/octet-stream', 'x-sessions': String(sessions) })
    stream.end(Buffer.concat(pieces))
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
